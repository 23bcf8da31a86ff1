//! A small `sh` child that ends what the test process started, after that process has ended in any way.

use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::Mutex;

/// Its standard input is a pipe only the test process holds: the kernel closes it even on `kill -9`.
const SCRIPT: &str = r#"
trap '' INT TERM HUP QUIT
groups= directories= containers=
without() { r=; for i in $1; do [ "$i" = "$2" ] || r="$r $i"; done; echo "$r"; }
while read -r what it; do
  case $what in
    group) groups="$groups $it" ;;
    directory) directories="$directories $it" ;;
    container) containers="$containers $it" ;;
    forget-group) groups=$(without "$groups" "$it") ;;
    forget-container) containers=$(without "$containers" "$it") ;;
  esac
done
# dash takes no `--` after `-9`.
for g in $groups; do kill -s KILL -- "-$g" 2>/dev/null; done
remove() {
  if command -v docker >/dev/null 2>&1; then docker rm -fv "$1"
  else curl -sf --unix-socket /var/run/docker.sock -X DELETE "http://docker/containers/$1?force=1&v=1"; fi >/dev/null 2>&1
}
for c in $containers; do remove "$c" || { sleep 2; remove "$c"; }; done
for d in $directories; do rm -rf "$d" || { sleep 0.3; rm -rf "$d"; }; done 2>/dev/null
"#;

pub(crate) struct Watchdog {
    child: Child,
    pipe: Mutex<Option<ChildStdin>>,
}

impl Watchdog {
    pub(crate) fn start() -> Self {
        let mut child = Command::new("sh")
            .args(["-c", SCRIPT])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .current_dir("/")
            // Ctrl-C and a kill by CI reach the tests' process group; the watchdog must outlive it.
            .process_group(0)
            .spawn()
            .expect("sh starts");
        let pipe = Mutex::new(child.stdin.take());
        Self { child, pipe }
    }

    /// A process group to end with SIGKILL.
    pub(crate) fn group(&self, id: u32) {
        self.tell(format_args!("group {id}"));
    }

    pub(crate) fn forget_group(&self, id: u32) {
        self.tell(format_args!("forget-group {id}"));
    }

    /// A container to remove, known by name before it exists.
    #[cfg(feature = "docker")]
    pub(crate) fn container(&self, name: &str) {
        self.tell(format_args!("container {name}"));
    }

    #[cfg(feature = "docker")]
    pub(crate) fn forget_container(&self, name: &str) {
        self.tell(format_args!("forget-container {name}"));
    }

    /// A directory to remove, after the groups are gone.
    pub(crate) fn directory(&self, path: &Path) {
        self.tell(format_args!("directory {}", path.display()));
    }

    fn tell(&self, line: std::fmt::Arguments<'_>) {
        let mut pipe = self.pipe.lock().expect("no panic holds the pipe");
        if let Some(pipe) = pipe.as_mut() {
            // One write of under PIPE_BUF bytes: a process killed in between leaves no half line.
            pipe.write_all(format!("{line}\n").as_bytes()).expect("the watchdog reads");
        }
    }
}

impl Drop for Watchdog {
    /// Closes the pipe and waits until everything is ended.
    fn drop(&mut self) {
        drop(self.pipe.get_mut().map(Option::take));
        self.child.wait().ok();
    }
}
