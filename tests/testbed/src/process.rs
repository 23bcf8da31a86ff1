//! A program to start and watch.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, OnceLock};
use std::thread::{self, JoinHandle};
use std::time::Duration;

pub use rustix::process::Signal;
use rustix::process::{Pid, Resource, getrlimit, kill_process, kill_process_group, setrlimit};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout_at};

use crate::watchdog::Watchdog;

/// The variables that a program inherits from the test's environment; the test sets all others.
const INHERITED: [&str; 8] =
    ["PATH", "HOME", "TMPDIR", "TZ", "LD_LIBRARY_PATH", "SSL_CERT_FILE", "SSL_CERT_DIR", "LLVM_PROFILE_FILE"];

/// A program to start: path, arguments, environment. Of the test's environment it sees only `PATH`, `HOME`, `TMPDIR`,
/// `TZ`, `LD_LIBRARY_PATH`, `SSL_CERT_FILE`, `SSL_CERT_DIR` and `LLVM_PROFILE_FILE`.
#[derive(Clone, Debug)]
pub struct Program {
    path: PathBuf,
    args: Vec<OsString>,
    env: BTreeMap<OsString, OsString>,
    directory: Option<PathBuf>,
    stderr: Option<PathBuf>,
}

impl Program {
    pub fn new(path: impl Into<PathBuf>) -> Self {
        let env = INHERITED.iter().filter_map(|name| Some((name.into(), std::env::var_os(name)?))).collect();
        Self { path: path.into(), args: Vec::new(), env, directory: None, stderr: None }
    }

    pub fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.args.push(arg.as_ref().into());
        self
    }

    pub fn args(mut self, args: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Self {
        self.args.extend(args.into_iter().map(|arg| arg.as_ref().into()));
        self
    }

    pub fn env(mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self.env.insert(name.as_ref().into(), value.as_ref().into());
        self
    }

    pub fn directory(mut self, path: impl Into<PathBuf>) -> Self {
        self.directory = Some(path.into());
        self
    }

    /// Writes its standard error into this file, and keeps nothing of it: for programs that run long.
    pub fn stderr_to(mut self, path: impl Into<PathBuf>) -> Self {
        self.stderr = Some(path.into());
        self
    }

    /// Starts it.
    ///
    /// # Panics
    /// When it can't be started.
    pub fn start(&self) -> Process {
        let mut command = Command::new(&self.path);
        command.args(&self.args).env_clear().envs(&self.env).process_group(0);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        if let Some(directory) = &self.directory {
            command.current_dir(directory);
        }
        if let Some(path) = &self.stderr {
            let file = File::create(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            command.stderr(file);
        }
        let mut child =
            command.spawn().unwrap_or_else(|error| panic!("{} does not start: {error}", self.path.display()));
        watchdog().group(child.id());

        let (lines, _) = watch::channel(Vec::new());
        let stdout = child.stdout.take().map(|pipe| read(Source::Stdout, pipe, lines.clone()));
        let stderr = child.stderr.take().map(|pipe| read(Source::Stderr, pipe, lines.clone()));
        let readers = stdout.into_iter().chain(stderr).collect();
        let name = self.path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let pid = Pid::from_child(&child);
        let running =
            Running { name, pid, child: Mutex::new((child, None)), lines, readers: Mutex::new(readers) };
        Process { running: Arc::new(running) }
    }
}

/// Ends the programs of a test process that was itself ended by force.
fn watchdog() -> &'static Watchdog {
    static WATCHDOG: OnceLock<Watchdog> = OnceLock::new();
    WATCHDOG.get_or_init(Watchdog::start)
}

#[derive(Clone, Copy, PartialEq)]
enum Source {
    Stdout,
    Stderr,
}

type Line = (Source, String);

fn read(source: Source, pipe: impl Read + Send + 'static, lines: watch::Sender<Vec<Line>>) -> JoinHandle<()> {
    thread::spawn(move || {
        let mut pipe = BufReader::new(pipe);
        let mut line = Vec::new();
        // Bytes that are not UTF-8 must not end the reading: a full pipe would block the program.
        while pipe.read_until(b'\n', &mut line).is_ok_and(|read| read > 0) {
            let text = String::from_utf8_lossy(&line).trim_end_matches(['\n', '\r']).to_owned();
            lines.send_modify(|lines| lines.push((source, text)));
            line.clear();
        }
    })
}

/// Lets this process, and programs that it starts later, have this many open files, if the system allows it.
pub fn raise_descriptor_limit(files: u64) {
    let mut limit = getrlimit(Resource::Nofile);
    if limit.current.is_some_and(|current| current < files) {
        limit.current = Some(limit.maximum.map_or(files, |maximum| maximum.min(files)));
        setrlimit(Resource::Nofile, limit).expect("the limit may be raised up to its maximum");
    }
}

/// A started program. Dropping it ends it with SIGKILL.
pub struct Process {
    running: Arc<Running>,
}

/// What is left of a program for someone who does not own it.
pub struct Running {
    name: String,
    pid: Pid,
    /// The status once it was waited for: from then on the pid may belong to another process.
    child: Mutex<(Child, Option<ExitStatus>)>,
    lines: watch::Sender<Vec<Line>>,
    readers: Mutex<Vec<JoinHandle<()>>>,
}

impl Process {
    /// To end it and print what it wrote, from elsewhere.
    pub fn running(&self) -> Arc<Running> {
        self.running.clone()
    }

    pub fn pid(&self) -> u32 {
        self.running.pid.as_raw_nonzero().get().unsigned_abs()
    }

    /// All lines of standard output so far.
    pub fn stdout(&self) -> Vec<String> {
        self.lines(Source::Stdout)
    }

    /// All lines of standard error so far.
    pub fn stderr(&self) -> Vec<String> {
        self.lines(Source::Stderr)
    }

    fn lines(&self, wanted: Source) -> Vec<String> {
        let lines = self.running.lines.borrow();
        lines.iter().filter(|(source, _)| *source == wanted).map(|(_, line)| line.clone()).collect()
    }

    /// The first line of either output, past ones included, that fulfils `predicate`.
    ///
    /// # Panics
    /// When none came within `deadline`, or the program ended without one.
    pub async fn wait_for_line(&self, predicate: impl Fn(&str) -> bool, deadline: Duration) -> String {
        let until = Instant::now() + deadline;
        let mut lines = self.running.lines.subscribe();
        let mut seen = 0;
        loop {
            // Checked before the lines: after a program has ended, it writes no more lines.
            let over = self.running.all_read();
            {
                let lines = lines.borrow_and_update();
                if let Some((_, line)) = lines[seen..].iter().find(|(_, line)| predicate(line)) {
                    return line.clone();
                }
                seen = lines.len();
            }
            let name = &self.running.name;
            assert!(!over, "{name} ended without the line waited for; it wrote:\n{}", self.running.output());
            let tick = Instant::now() + Duration::from_millis(100);
            timeout_at(tick.min(until), lines.changed()).await.ok();
            if Instant::now() >= until && !lines.has_changed().unwrap_or(false) {
                panic!(
                    "{name} did not write the line waited for within {deadline:?}; it wrote:\n{}",
                    self.running.output()
                );
            }
        }
    }

    /// Sends a signal, such as [`Signal::TERM`].
    pub fn signal(&self, signal: Signal) {
        self.running.signal(signal);
    }

    /// SIGSTOP.
    pub fn stop(&self) {
        self.signal(Signal::STOP);
    }

    /// SIGCONT.
    pub fn cont(&self) {
        self.signal(Signal::CONT);
    }

    /// SIGKILL, and waits for its end.
    pub fn kill9(&self) {
        self.running.kill9();
    }

    /// The exit status if it has ended.
    pub fn try_exit(&self) -> Option<ExitStatus> {
        self.running.try_wait()
    }

    /// Waits for its end and for the last of its output.
    ///
    /// # Panics
    /// When it still runs after `deadline`.
    pub async fn wait_exit(&self, deadline: Duration) -> ExitStatus {
        let until = Instant::now() + deadline;
        loop {
            if let Some(status) = self.running.try_wait() {
                // A grandchild may keep the pipes open, so the wait for the output has a limit.
                let until = Instant::now() + Duration::from_secs(1);
                while !self.running.all_read() && Instant::now() < until {
                    sleep(Duration::from_millis(2)).await;
                }
                return status;
            }
            if Instant::now() >= until {
                panic!(
                    "{} did not end within {deadline:?}; it wrote:\n{}",
                    self.running.name,
                    self.running.output()
                );
            }
            sleep(Duration::from_millis(5)).await;
        }
    }

    /// User and system CPU time used so far, of all its threads (`/proc/PID/stat`).
    pub fn cpu_time(&self) -> Duration {
        cpu_time(&self.proc("stat"))
    }

    /// Resident memory in bytes (`/proc/PID/status`).
    pub fn rss(&self) -> u64 {
        self.memory("VmRSS:")
    }

    /// The most resident memory it has had, in bytes.
    pub fn peak_rss(&self) -> u64 {
        self.memory("VmHWM:")
    }

    fn memory(&self, name: &str) -> u64 {
        let status = self.proc("status");
        let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap_or("0");
        line.split_whitespace().next().and_then(|kib| kib.parse::<u64>().ok()).unwrap_or(0) * 1024
    }

    fn proc(&self, file: &str) -> String {
        std::fs::read_to_string(format!("/proc/{}/{file}", self.pid()))
            .unwrap_or_else(|error| panic!("{} does not run: {error}", self.running.name))
    }
}

/// User and system CPU time of the processes of this machine that `is_meant` chooses, by the folder in `/proc` and the
/// content of `stat`.
pub(crate) fn cpu_time_where(is_meant: impl Fn(&Path, &str) -> bool) -> Duration {
    let folders = fs::read_dir("/proc").into_iter().flatten().flatten().map(|entry| entry.path());
    let time = |folder: PathBuf| {
        let stat = fs::read_to_string(folder.join("stat")).ok()?;
        is_meant(&folder, &stat).then(|| cpu_time(&stat))
    };
    folders.filter_map(time).sum()
}

/// User's and system's CPU time in the text of a `/proc/PID/stat`.
fn cpu_time(stat: &str) -> Duration {
    // The name in parentheses may contain anything; utime and stime are the 12th and 13th field after it.
    let fields = stat.rsplit_once(')').map_or("", |(_, fields)| fields);
    let ticks: u64 =
        fields.split_whitespace().skip(11).take(2).filter_map(|ticks| ticks.parse::<u64>().ok()).sum();
    Duration::from_millis(ticks * 1000 / rustix::param::clock_ticks_per_second())
}

impl Drop for Process {
    fn drop(&mut self) {
        self.running.kill9();
        if thread::panicking() {
            self.running.print();
        }
    }
}

impl Running {
    fn signal(&self, signal: Signal) {
        assert!(self.try_wait().is_none(), "{} has ended already", self.name);
        kill_process(self.pid, signal).expect("an unreaped child takes a signal");
    }

    /// SIGKILL, and waits for its end.
    pub fn kill9(&self) {
        let mut child = self.child.lock().expect("no panic holds the child");
        if child.1.is_none() {
            // With what it has started itself: its pid is the group's, and valid until it is waited for.
            kill_process_group(self.pid, Signal::KILL).ok();
            child.1 = child.0.wait().ok();
            watchdog().forget_group(child.0.id());
        }
    }

    fn try_wait(&self) -> Option<ExitStatus> {
        let mut child = self.child.lock().expect("no panic holds the child");
        if child.1.is_none() {
            child.1 = child.0.try_wait().expect("a child can be waited for");
            if child.1.is_some() {
                watchdog().forget_group(child.0.id());
            }
        }
        child.1
    }

    fn all_read(&self) -> bool {
        self.readers.lock().expect("no panic holds the readers").iter().all(JoinHandle::is_finished)
    }

    fn output(&self) -> String {
        self.lines.borrow().iter().map(|(_, line)| format!("  {line}\n")).collect()
    }

    /// Prints what it wrote. Once: the harness and a drop during a panic may both ask.
    pub fn print(&self) {
        if !std::mem::take(&mut *self.readers.lock().expect("no panic holds the readers")).is_empty() {
            let pid = self.pid.as_raw_nonzero();
            eprintln!("--- {} ({pid}) wrote:\n{}---", self.name, self.output());
        }
    }
}
