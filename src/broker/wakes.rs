//! Wakes by lapin's threads, gathered. A thread of lapin's that wakes a task itself costs a system
//! call for each, since tasks run on a thread of their own; and each is then run by itself, so that
//! what follows from one confirm of many messages is many acknowledgements instead of one.

use std::{
    pin::pin,
    sync::Arc,
    task::{Context, Wake, Waker},
};

use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

/// Passes wakes on through one task, which alone is woken from another thread. Clones share it.
#[derive(Clone, Debug)]
pub(super) struct Wakes(UnboundedSender<Waker>);

impl Wakes {
    /// Starts the task, which ends when no clone and no waker is left.
    ///
    /// # Panics
    /// Outside a runtime.
    pub(super) fn start() -> Self {
        let (wakes, gathered) = Self::new();
        tokio::spawn(pass_on(gathered));
        wakes
    }

    fn new() -> (Self, UnboundedReceiver<Waker>) {
        let (wakes, gathered) = unbounded_channel();
        (Self(wakes), gathered)
    }

    /// What the future comes to; whatever wakes it does so through the task.
    pub(super) async fn gather<T>(&self, future: impl Future<Output = T>) -> T {
        let mut future = pin!(future);
        std::future::poll_fn(|context| {
            let relay = Relay { waker: context.waker().clone(), wakes: self.clone() };
            future.as_mut().poll(&mut Context::from_waker(&Waker::from(Arc::new(relay))))
        })
        .await
    }
}

async fn pass_on(mut gathered: UnboundedReceiver<Waker>) {
    while let Some(waker) = gathered.recv().await {
        waker.wake();
    }
}

/// Wakes a task by way of another.
struct Relay {
    waker: Waker,
    wakes: Wakes,
}

impl Wake for Relay {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        // Where the task is gone with its runtime, that of whoever waits may still be there.
        if let Err(unsent) = self.wakes.0.send(self.waker.clone()) {
            unsent.0.wake();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::{
            Mutex,
            atomic::{AtomicUsize, Ordering},
        },
        task::Poll,
    };

    use super::*;

    #[derive(Default)]
    struct Count(AtomicUsize);

    impl Count {
        fn get(&self) -> usize {
            self.0.load(Ordering::SeqCst)
        }
    }

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    /// Polls once, with wakes that are counted.
    fn poll(future: impl Future, count: &Arc<Count>) -> bool {
        let waker = Waker::from(Arc::clone(count));
        pin!(future).poll(&mut Context::from_waker(&waker)).is_ready()
    }

    /// Leaves its waker and never ends.
    async fn left_in(wakers: &Mutex<Vec<Waker>>) {
        std::future::poll_fn(|context| {
            wakers.lock().expect("no panic").push(context.waker().clone());
            Poll::<()>::Pending
        })
        .await;
    }

    #[test]
    fn many_wakes_by_another_thread_wake_one_task() {
        let (wakes, gathered) = Wakes::new();
        let (passing, waiting) = (Arc::<Count>::default(), Arc::<Count>::default());
        let mut pass_on = Box::pin(pass_on(gathered));
        assert!(!poll(&mut pass_on, &passing));
        let wakers = Mutex::default();
        for _ in 0..100 {
            assert!(!poll(wakes.gather(left_in(&wakers)), &waiting));
        }
        std::thread::scope(|scope| {
            scope.spawn(|| wakers.lock().expect("no panic").drain(..).for_each(Waker::wake));
        });
        assert_eq!((passing.get(), waiting.get()), (1, 0));
        assert!(!poll(&mut pass_on, &passing));
        assert_eq!(waiting.get(), 100);
        drop(wakes);
        assert!(poll(&mut pass_on, &passing), "goes on though nobody is left to wake");
    }

    #[test]
    fn without_the_task_a_wake_still_arrives() {
        let (wakes, gathered) = Wakes::new();
        let waiting = Arc::<Count>::default();
        let wakers = Mutex::default();
        assert!(!poll(wakes.gather(left_in(&wakers)), &waiting));
        drop(gathered);
        wakers.lock().expect("no panic").drain(..).for_each(Waker::wake);
        assert_eq!(waiting.get(), 1);
    }

    #[tokio::test]
    async fn what_a_future_comes_to_is_what_it_would_have_been() {
        let wakes = Wakes::start();
        let (sender, receiver) = tokio::sync::oneshot::channel();
        let thread = std::thread::spawn(move || sender.send(7));
        assert_eq!(wakes.gather(receiver).await, Ok(7));
        assert_eq!(thread.join().expect("no panic"), Ok(()));
    }
}
