//! One test from start to clean end.

use std::any::Any;
use std::net::SocketAddr;
use std::ops::Deref;
use std::panic::{AssertUnwindSafe, resume_unwind};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use futures_util::FutureExt;
use testbed::{Amqp, NodeOptions, Process, Program, RabbitNode, Running, Vhost};
use tokio::runtime::Builder;
use tokio::sync::mpsc;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::timeout;

use crate::cutter::TcpCutter;

const LIMIT: Duration = Duration::from_secs(60);

type Panic = Box<dyn Any + Send>;

/// What a test is given. Clones share it.
#[derive(Clone)]
pub struct Context {
    inner: Arc<Inner>,
}

struct Inner {
    node: Node,
    vhost: Vhost,
    processes: Mutex<Vec<Arc<Running>>>,
    tasks: Mutex<JoinSet<()>>,
    panics: mpsc::UnboundedSender<Panic>,
}

#[derive(Clone)]
enum Node {
    Shared(&'static RabbitNode),
    Own(Arc<RabbitNode>),
}

impl Deref for Node {
    type Target = RabbitNode;
    fn deref(&self) -> &RabbitNode {
        match self {
            Self::Shared(node) => node,
            Self::Own(node) => node,
        }
    }
}

impl Context {
    pub fn node(&self) -> &RabbitNode {
        &self.inner.node
    }

    pub fn vhost(&self) -> &Vhost {
        &self.inner.vhost
    }

    pub fn amqp_url(&self) -> &str {
        self.inner.vhost.amqp_url()
    }

    /// A connection to the test's vhost.
    pub async fn amqp(&self) -> Amqp {
        Amqp::connect(self.amqp_url()).await
    }

    /// A proxy to the broker that can be cut, and the vhost's AMQP URL through it.
    pub async fn cutter(&self) -> (TcpCutter, String) {
        let (host, port) = self.node().address();
        let cutter = TcpCutter::start(format!("{host}:{port}")).await;
        let url = self.vhost().amqp_url_on_port(cutter.address().port());
        (cutter, url)
    }

    /// A proxy to any address that can be cut.
    pub async fn cutter_to(&self, target: SocketAddr) -> TcpCutter {
        TcpCutter::start(target.to_string()).await
    }

    /// Starts a program; it is ended with the test, and what it wrote is printed if the test fails.
    pub fn start(&self, program: &Program) -> Process {
        let process = program.start();
        self.inner.processes.lock().expect("no panic holds the processes").push(process.running());
        process
    }

    /// Runs in the background until the test ends. Its panic fails the test at once.
    pub fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) -> AbortHandle {
        let panics = self.inner.panics.clone();
        let watched = async move {
            if let Err(panic) = AssertUnwindSafe(task).catch_unwind().await {
                panics.send(panic).ok();
            }
        };
        self.inner.tasks.lock().expect("no panic holds the tasks").spawn(watched)
    }
}

/// Held by each test while it runs; exclusively by one that measures.
static OTHERS: RwLock<()> = RwLock::new(());

/// Runs a test on a runtime of its own, with a vhost of its own on the shared node, for at most 60 s (the node's start
/// not counted). Afterwards, and also when it panicked or took too long, its processes and tasks are ended and the
/// vhost is deleted.
///
/// # Panics
/// As the test did, as a background task of it did, or because it took too long.
pub fn run(test: impl AsyncFnOnce(Context)) {
    run_within(LIMIT, test);
}

/// [`run`] with another time limit.
pub fn run_within(limit: Duration, test: impl AsyncFnOnce(Context)) {
    let _beside_others = OTHERS.read().unwrap_or_else(PoisonError::into_inner);
    drive(limit, None, test);
}

/// [`run_within`] while no other test of the program runs: for one that measures.
pub fn run_alone_within(limit: Duration, test: impl AsyncFnOnce(Context)) {
    let _alone = OTHERS.write().unwrap_or_else(PoisonError::into_inner);
    drive(limit, None, test);
}

/// [`run`] on a node of the test's own, which it may hurt.
pub fn run_on_own_node(options: NodeOptions, test: impl AsyncFnOnce(Context)) {
    run_on_own_node_within(LIMIT, options, test);
}

/// [`run_on_own_node`] with another time limit.
pub fn run_on_own_node_within(limit: Duration, options: NodeOptions, test: impl AsyncFnOnce(Context)) {
    let _beside_others = OTHERS.read().unwrap_or_else(PoisonError::into_inner);
    drive(limit, Some(options), test);
}

fn drive(limit: Duration, own: Option<NodeOptions>, test: impl AsyncFnOnce(Context)) {
    let runtime = Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
    let outcome = runtime.block_on(async {
        let node = match own {
            Some(options) => Node::Own(Arc::new(RabbitNode::start_own(options).await)),
            None => Node::Shared(RabbitNode::shared().await),
        };
        let vhost = node.vhost().await;
        let (panics, background) = mpsc::unbounded_channel();
        let (processes, tasks) = (Mutex::default(), Mutex::default());
        let inner = Arc::new(Inner { node, vhost, processes, tasks, panics });
        let outcome = watch(limit, test(Context { inner: inner.clone() }), background, &inner).await;
        clean(&inner, outcome.is_err());
        outcome
    });
    runtime.shutdown_timeout(Duration::from_secs(2));
    if let Err(panic) = outcome {
        resume_unwind(panic);
    }
}

async fn watch(
    limit: Duration,
    test: impl Future<Output = ()>,
    mut background: mpsc::UnboundedReceiver<Panic>,
    inner: &Inner,
) -> Result<(), Panic> {
    let outcome = tokio::select! {
        biased;
        Some(panic) = background.recv() => return Err(panic),
        outcome = timeout(limit, AssertUnwindSafe(test).catch_unwind()) => match outcome {
            Ok(outcome) => outcome,
            Err(_) => Err(Box::new(format!("the test took longer than {limit:?}")) as Panic),
        },
    };
    let mut tasks = std::mem::take(&mut *inner.tasks.lock().expect("no panic holds the tasks"));
    tasks.abort_all();
    // A task that never awaits can't be aborted: it must not hang the test as well.
    let joined = async { while tasks.join_next().await.is_some() {} };
    timeout(Duration::from_secs(5), joined).await.ok();
    outcome?;
    background.try_recv().map_or(Ok(()), Err)
}

fn clean(inner: &Inner, failed: bool) {
    for process in inner.processes.lock().expect("no panic holds the processes").drain(..) {
        process.kill9();
        if failed {
            process.print();
        }
    }
}
