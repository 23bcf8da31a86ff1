//! One request at a time, while calls are paused: whether Trackfinity serves again.

use std::sync::Arc;

use lapin::Channel;
use tokio::{sync::oneshot, time::Instant};

use super::{Intake, Turn, watch};
use crate::worker::{Purpose, loss::Loss};

impl Intake<'_> {
    /// Waits for the next probe's time, and tries one request.
    pub(super) async fn probe(&mut self, channel: &Channel) -> Result<Turn, Loss> {
        self.publishing.status.consuming();
        while let Some(due) = self.way.gate.probe_at().filter(|due| *due > Instant::now()) {
            tokio::select! {
                biased;
                () = self.stop.cancelled() => return Ok(Turn::Stop),
                finished = watch(&mut self.events, &mut self.tasks, &self.publishing) => self.take_in(channel, finished?)?,
                () = tokio::time::sleep_until(due) => {}
            }
        }
        let mut consumer = self.consume(channel, 1).await?;
        let delivery = loop {
            tokio::select! {
                biased;
                () = self.stop.cancelled() => return Ok(Turn::Stop),
                finished = watch(&mut self.events, &mut self.tasks, &self.publishing) => self.take_in(channel, finished?)?,
                delivery = consumer.next() => break delivery.ok_or(Loss::Cancelled)??,
            }
        };
        // Before it is settled, so that no second one is delivered.
        consumer.cancel().await?;
        if self.way.gate.probe_at().is_none_or(|due| due > Instant::now()) {
            // A late answer to another call asked for a longer wait; this one waits outside.
            self.spawn(delivery);
            return Ok(Turn::Paused);
        }
        self.way.client.refresh_secrets().await;
        self.way.gate.begin_probe();
        let (way, publishing) = (Arc::clone(&self.way), Arc::clone(&self.publishing));
        let (done, gone) = oneshot::channel::<()>();
        self.tasks.spawn(async move {
            let _done = done;
            way.go(delivery, Purpose::Probe, &publishing).await
        });
        tokio::pin!(gone);
        let turn = loop {
            tokio::select! {
                biased;
                () = self.stop.cancelled() => break Ok(Turn::Stop),
                finished = watch(&mut self.events, &mut self.tasks, &self.publishing) => {
                    let taken = finished.and_then(|finished| self.take_in(channel, finished));
                    if let Err(loss) = taken {
                        break Err(loss);
                    }
                }
                // Its reply ends it; to publish what came of it may take longer.
                () = self.way.gate.probe_ended() => break Ok(Turn::Paused),
                _dropped = &mut gone => break Ok(Turn::Paused),
            }
        };
        // It came to no call, if it has not ended by now.
        self.way.gate.end_probe(None);
        turn
    }
}
