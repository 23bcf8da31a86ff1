//! Coalesces the wakes of lapin's threads. A wake by another thread is a system call, and each publish
//! has two: when it is sent and when it is confirmed. Tasks that are woken together also finish
//! together, and one acknowledgement then covers them all.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Wake, Waker},
};

use futures_util::task::AtomicWaker;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

/// Forwards wakes through one task. Only that task is woken from other threads. Clones share it.
#[derive(Clone, Debug)]
pub(super) struct WakeCoalescer(UnboundedSender<Arc<Source>>);

impl WakeCoalescer {
    /// Starts the task. It ends when no clone is left and nothing waits.
    ///
    /// # Panics
    /// Outside a runtime.
    pub(super) fn start() -> Self {
        let (coalescer, woken) = Self::new();
        tokio::spawn(forward_wakes(woken));
        coalescer
    }

    fn new() -> (Self, UnboundedReceiver<Arc<Source>>) {
        let (coalescer, woken) = unbounded_channel();
        (Self(coalescer), woken)
    }

    /// A waker for one future, to be used from its first poll to its last.
    pub(super) fn waker(&self) -> CoalescedWaker {
        let source = Arc::new(Source { waiting: AtomicWaker::new(), coalescer: self.clone() });
        CoalescedWaker { waker: Waker::from(Arc::clone(&source)), source }
    }
}

/// Polls one future after another for one task. Their wakes go through the task of
/// [`WakeCoalescer`].
#[derive(Debug)]
pub(super) struct CoalescedWaker {
    source: Arc<Source>,
    waker: Waker,
}

impl CoalescedWaker {
    pub(super) fn poll<F: Future>(&self, future: Pin<&mut F>, context: &Context<'_>) -> Poll<F::Output> {
        self.source.waiting.register(context.waker());
        future.poll(&mut Context::from_waker(&self.waker))
    }

    /// Awaits the future. Its wakes go through the task.
    pub(super) async fn poll_through<F: Future>(&self, mut future: Pin<&mut F>) -> F::Output {
        std::future::poll_fn(|context| self.poll(future.as_mut(), context)).await
    }
}

async fn forward_wakes(mut woken: UnboundedReceiver<Arc<Source>>) {
    while let Some(source) = woken.recv().await {
        source.waiting.wake();
    }
}

/// Wakes the task that waits for a future, through the forwarding task.
#[derive(Debug)]
struct Source {
    waiting: AtomicWaker,
    coalescer: WakeCoalescer,
}

impl Wake for Source {
    fn wake(self: Arc<Self>) {
        Self::wake_by_ref(&self);
    }

    fn wake_by_ref(self: &Arc<Self>) {
        // The task ends before its clones only with the runtime, and then no one waits.
        self.coalescer.0.send(Arc::clone(self)).ok();
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

    /// Polls once with a waker that counts.
    fn poll<F: Future>(future: Pin<&mut F>, count: &Arc<Count>) -> Poll<F::Output> {
        future.poll(&mut Context::from_waker(&Waker::from(Arc::clone(count))))
    }

    /// Stores its waker at the first poll, and ends at the second.
    async fn suspend_once(wakers: &Mutex<Vec<Waker>>) {
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
        let (coalescer, woken) = WakeCoalescer::new();
        let (passing, waiting) = (Arc::<Count>::default(), Arc::<Count>::default());
        let mut forward_wakes = pin!(forward_wakes(woken));
        assert!(poll(forward_wakes.as_mut(), &passing).is_pending());
        let wakers = Mutex::default();
        let mut all: Vec<_> = (0..100)
            .map(|_| Box::pin(async { coalescer.waker().poll_through(pin!(suspend_once(&wakers))).await }))
            .collect();
        for future in &mut all {
            assert!(poll(future.as_mut(), &waiting).is_pending());
        }
        std::thread::scope(|scope| {
            scope.spawn(|| wake_all(&wakers));
        });
        assert_eq!((passing.get(), waiting.get()), (1, 0));
        assert!(poll(forward_wakes.as_mut(), &passing).is_pending());
        assert_eq!(waiting.get(), 100);
        assert!(all.iter_mut().all(|future| poll(future.as_mut(), &waiting).is_ready()));
        drop(all);
        drop(coalescer);
        assert!(poll(forward_wakes, &passing).is_ready(), "continues though nobody is left to wake");
    }

    #[test]
    fn the_task_that_polled_last_is_woken() {
        let (coalescer, woken) = WakeCoalescer::new();
        let (first, second) = (Arc::<Count>::default(), Arc::<Count>::default());
        let wakers = Mutex::default();
        let mut never = pin!(async {
            suspend_once(&wakers).await;
            std::future::pending::<()>().await;
        });
        let source = coalescer.waker();
        let mut future = pin!(source.poll_through(never.as_mut()));
        assert!(poll(future.as_mut(), &first).is_pending());
        assert!(poll(future.as_mut(), &second).is_pending());
        wake_all(&wakers);
        assert!(poll(pin!(forward_wakes(woken)), &first).is_pending());
        assert_eq!((first.get(), second.get()), (0, 1));
    }

    #[tokio::test]
    async fn a_thousand_at_once_complete() {
        let coalescer = WakeCoalescer::start();
        let (senders, receivers): (Vec<_>, Vec<_>) = (0..1000).map(|_| oneshot::channel()).unzip();
        let all =
            receivers.into_iter().map(async |receiver| coalescer.waker().poll_through(pin!(receiver)).await);
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
