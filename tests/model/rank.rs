//! A measure that falls with every step: so the model always comes to an end.

use super::{
    settlement::Settlement,
    world::{Flight, Hold, LateConfirm, Message, Step, Successor, Task, World},
};

/// More work than it takes to publish a postponed outcome.
const PENDING_WORK: u32 = 8;

impl Settlement {
    /// Falls with every step, so that each path comes to an end. In this order: how much may still
    /// be lost, losses that are not noticed yet, other faults that may still happen, the work that
    /// remains.
    pub fn rank(&self, world: &World) -> (u32, usize, u32, u32) {
        let budget = world.budget;
        let broken = world.workers.iter().filter(|worker| worker.is_session_broken()).count();
        let requests: u32 = world.requests.iter().map(|message| self.work_of_message(message)).sum();
        let retry: u32 = world.retry.iter().map(|message| 1 + self.work_of_message(message)).sum();
        let late = world.workers.iter().flat_map(|worker| &worker.late);
        let late: u32 = late.map(|late| LateConfirm::Confirmed as u32 - late.confirm as u32).sum();
        let adrift: u32 = world.adrift.iter().map(|publish| 1 + self.work_of(publish.successor)).sum();
        let tasks: u32 = world.tasks().map(|task| self.work_of_task(task)).sum();
        let work = requests + retry + late + adrift + tasks;
        let other_faults = budget.refusals + budget.delays + budget.spared;
        (budget.crashes + budget.losses, broken, other_faults, work)
    }

    /// More work than remains after any reply. A spared one is not included: the budget bounds
    /// these.
    fn work_of_request(&self, attempts: u32) -> u32 {
        16 * self.max_attempts.saturating_sub(attempts)
    }

    fn work_of_message(&self, message: &Message) -> u32 {
        match message.pending {
            Some(_) => PENDING_WORK,
            None => self.work_of_request(message.attempts),
        }
    }

    fn work_of(&self, successor: Successor) -> u32 {
        match successor {
            Successor::Retry { attempts } => 1 + self.work_of_request(attempts),
            Successor::Pending(_) => 1 + PENDING_WORK,
            Successor::Outcome(_) | Successor::DeadLetter => 0,
        }
    }

    fn work_of_plan(&self, steps: &[Step]) -> u32 {
        let work = |step: &Step| match step {
            Step::Publish(successor) => 3 + self.work_of(*successor),
            Step::AwaitConfirm => 1,
            Step::Ack => 2,
        };
        steps.iter().map(work).sum()
    }

    fn work_of_task(&self, task: &Task) -> u32 {
        let Some(todo) = &task.todo else {
            return self.work_of_request(task.message.attempts) - 1;
        };
        let flight = match task.flight {
            Flight::Written(successor) => 2 + self.work_of(successor),
            Flight::Stored(_) => 1,
            Flight::None | Flight::Lost => 0,
        };
        self.work_of_plan(todo) + flight + u32::from(task.hold == Hold::AckSent)
    }
}
