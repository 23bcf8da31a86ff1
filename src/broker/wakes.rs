//! Wakes by lapin's threads, gathered. A wake by another thread is a system call, and a publish has
//! two: when it is sent and when it is confirmed. Tasks that are woken one by one also end one by
//! one, each with an acknowledgement of its own; woken together, they are acknowledged together.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Wake, Waker},
};

use futures_util::task::AtomicWaker;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

/// Passes wakes on through one task, which alone is woken from another thread. Clones share it.
#[derive(Clone, Debug)]
pub(super) struct Wakes(UnboundedSender<Arc<Relay>>);

impl Wakes {
    /// Starts the task, which ends when no clone is left and nothing waits.
    ///
    /// # Panics
    /// Outside a runtime.
    pub(super) fn start() -> Self {
        let (wakes, gathered) = Self::new();
        tokio::spawn(pass_on(gathered));
        wakes
    }

    fn new() -> (Self, UnboundedReceiver<Arc<Relay>>) {
        let (wakes, gathered) = unbounded_channel();
        (Self(wakes), gathered)
    }

    /// What one future is polled with, from its first poll to its last.
    pub(super) fn relay(&self) -> Relayed {
        let relay = Arc::new(Relay { waiting: AtomicWaker::new(), wakes: self.clone() });
        Relayed { waker: Waker::from(Arc::clone(&relay)), relay }
    }
}

/// Polls futures that one task waits for, one after the other, with wakes that go through the task
/// of [`Wakes`].
#[derive(Debug)]
pub(super) struct Relayed {
    relay: Arc<Relay>,
    waker: Waker,
}

impl Relayed {
    pub(super) fn poll<F: Future>(&self, future: Pin<&mut F>, context: &Context<'_>) -> Poll<F::Output> {
        self.relay.waiting.register(context.waker());
        future.poll(&mut Context::from_waker(&self.waker))
    }

    /// What the future comes to; whatever wakes it does so through the task.
    pub(super) async fn gather<F: Future>(&self, mut future: Pin<&mut F>) -> F::Output {
        std::future::poll_fn(|context| self.poll(future.as_mut(), context)).await
    }
}

async fn pass_on(mut gathered: UnboundedReceiver<Arc<Relay>>) {
    while let Some(relay) = gathered.recv().await {
        relay.waiting.wake();
    }
}

/// Wakes whoever waits for a future, by way of the task.
#[derive(Debug)]
struct Relay {
    waiting: AtomicWaker,
    wakes: Wakes,
}

impl Wake for Relay {
    fn wake(self: Arc<Self>) {
        Self::wake_by_ref(&self);
    }

    fn wake_by_ref(self: &Arc<Self>) {
        // The task ends before its clones with the runtime alone, and then nobody waits.
        self.wakes.0.send(Arc::clone(self)).ok();
    }
}

#[cfg(test)]
mod tests {
    use std::{
        pin::pin,
        sync::{
            Mutex,
            atomic::{AtomicUsize, Ordering},
        },
        time::Duration,
    };

    use tokio::sync::oneshot;

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
    fn poll<F: Future>(future: Pin<&mut F>, count: &Arc<Count>) -> Poll<F::Output> {
        future.poll(&mut Context::from_waker(&Waker::from(Arc::clone(count))))
    }

    /// Leaves its waker, once, and then ends.
    async fn left_in(wakers: &Mutex<Vec<Waker>>) {
        let mut left = false;
        std::future::poll_fn(|context| match std::mem::replace(&mut left, true) {
            true => Poll::Ready(()),
            false => {
                wakers.lock().expect("no panic").push(context.waker().clone());
                Poll::Pending
            }
        })
        .await;
    }

    fn wake_all(wakers: &Mutex<Vec<Waker>>) {
        wakers.lock().expect("no panic").drain(..).for_each(Waker::wake);
    }

    #[test]
    fn many_wakes_by_another_thread_wake_one_task() {
        let (wakes, gathered) = Wakes::new();
        let (passing, waiting) = (Arc::<Count>::default(), Arc::<Count>::default());
        let mut pass_on = pin!(pass_on(gathered));
        assert!(poll(pass_on.as_mut(), &passing).is_pending());
        let wakers = Mutex::default();
        let mut all: Vec<_> = (0..100)
            .map(|_| Box::pin(async { wakes.relay().gather(pin!(left_in(&wakers))).await }))
            .collect();
        for future in &mut all {
            assert!(poll(future.as_mut(), &waiting).is_pending());
        }
        std::thread::scope(|scope| {
            scope.spawn(|| wake_all(&wakers));
        });
        assert_eq!((passing.get(), waiting.get()), (1, 0));
        assert!(poll(pass_on.as_mut(), &passing).is_pending());
        assert_eq!(waiting.get(), 100);
        assert!(all.iter_mut().all(|future| poll(future.as_mut(), &waiting).is_ready()));
        drop(all);
        drop(wakes);
        assert!(poll(pass_on, &passing).is_ready(), "goes on though nobody is left to wake");
    }

    #[test]
    fn whoever_polled_last_is_woken() {
        let (wakes, gathered) = Wakes::new();
        let (first, second) = (Arc::<Count>::default(), Arc::<Count>::default());
        let wakers = Mutex::default();
        let mut never = pin!(async {
            left_in(&wakers).await;
            std::future::pending::<()>().await;
        });
        let relay = wakes.relay();
        let mut future = pin!(relay.gather(never.as_mut()));
        assert!(poll(future.as_mut(), &first).is_pending());
        assert!(poll(future.as_mut(), &second).is_pending());
        wake_all(&wakers);
        assert!(poll(pin!(pass_on(gathered)), &first).is_pending());
        assert_eq!((first.get(), second.get()), (0, 1));
    }

    #[tokio::test]
    async fn a_thousand_at_once_come_to_their_ends() {
        let wakes = Wakes::start();
        let (senders, receivers): (Vec<_>, Vec<_>) = (0..1000).map(|_| oneshot::channel()).unzip();
        let all = receivers.into_iter().map(async |receiver| wakes.relay().gather(pin!(receiver)).await);
        let mut all = pin!(futures_util::future::join_all(all));
        assert!(futures_util::poll!(all.as_mut()).is_pending());
        let thread = std::thread::spawn(|| {
            senders.into_iter().enumerate().for_each(|(n, sender)| sender.send(n).expect("it waits"));
        });
        let ended = tokio::time::timeout(Duration::from_secs(10), all).await.expect("all are woken");
        let expected: Vec<_> = (0..1000).map(Ok).collect();
        assert_eq!(ended, expected);
        thread.join().expect("no panic");
    }
}
