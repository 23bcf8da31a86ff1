use std::sync::atomic::{AtomicU32, Ordering};

use kit::CollectedLog;

use super::*;

/// A directory that is gone when the test ends.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("unlocker-secret-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(name);
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn write(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.0.join(name);
        fs::write(&path, content).unwrap();
        path
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        drop(fs::remove_dir_all(&self.0));
    }
}

fn anything(_: &str) -> Result<(), String> {
    Ok(())
}

fn no_blank(value: &str) -> Result<(), String> {
    if value.contains(' ') { Err("it contains a blank".into()) } else { Ok(()) }
}

fn shown(secret: &Secret) -> String {
    secret.current().expose_secret().to_owned()
}

#[test]
fn debug_never_shows_the_value() {
    let folder = Folder::new();
    let path = folder.write("key", "hunter2");
    assert_eq!(format!("{:?}", Secret::fixed("hunter2")), "[redacted]");
    let secret = Secret::open(&path, anything).unwrap();
    assert_eq!(format!("{secret:?}"), format!("[file {}]", path.display()));
}

#[test]
fn exactly_one_trailing_newline_is_not_part_of_the_secret() {
    let folder = Folder::new();
    for (content, expected) in
        [("a", "a"), ("a\n", "a"), ("a\r\n", "a"), ("a\n\n", "a\n"), ("a\r", "a\r"), (" a ", " a ")]
    {
        let path = folder.write("key", content);
        assert_eq!(shown(&Secret::open(path, anything).unwrap()), expected);
    }
}

#[test]
fn a_file_that_cannot_be_a_secret_is_refused_with_its_reason() {
    let folder = Folder::new();
    let refused = |path: PathBuf| Secret::open(path, no_blank).unwrap_err().to_string();
    assert!(refused(folder.0.join("none")).starts_with("cannot be read: No such file"));
    assert_eq!(refused(folder.0.clone()), "is not a regular file");
    assert_eq!(refused(folder.write("a", "\n")), "is empty");
    assert_eq!(refused(folder.write("b", [0xff, 0xfe])), "is not valid UTF-8");
    assert_eq!(refused(folder.write("der", [0x30, 0x82, 0x0a, 0xff])), "is not PEM (DER or PKCS#12?)");
    assert_eq!(refused(folder.write("c", "x".repeat(64 * 1024 + 1))), "is larger than 64 KiB");
    assert!(Secret::open(folder.write("d", "x".repeat(64 * 1024)), no_blank).is_ok());
    let unusable = refused(folder.write("e", "hunter 2"));
    assert_eq!(unusable, "holds a value that cannot be used: it contains a blank");
}

#[tokio::test]
async fn a_changed_file_is_read_again_and_all_clones_see_it() {
    let folder = Folder::new();
    let path = folder.write("key", "first\n");
    let secret = Secret::open(&path, anything).unwrap();
    let clone = secret.clone();
    assert_eq!(secret.refresh().await, Refreshed::Unchanged);
    assert_eq!(secret.version(), 0);
    folder.write("key", "second\n");
    assert_eq!(shown(&clone), "first");
    assert_eq!(secret.refresh().await, Refreshed::Changed);
    assert_eq!((shown(&clone).as_str(), clone.version()), ("second", 1));
    assert_eq!(clone.changed_since(0).await, 1);
}

#[tokio::test]
async fn a_fixed_secret_never_changes() {
    let secret = Secret::fixed("hunter2");
    assert_eq!(secret.refresh().await, Refreshed::Unchanged);
    assert_eq!((shown(&secret).as_str(), secret.version()), ("hunter2", 0));
    assert_eq!(secret.path(), None);
}

#[tokio::test]
async fn a_symlink_that_is_swapped_is_a_change() {
    let folder = Folder::new();
    let link = folder.0.join("link");
    std::os::unix::fs::symlink(folder.write("old", "first"), &link).unwrap();
    let secret = Secret::open(&link, anything).unwrap();
    let swapped = folder.0.join("swapped");
    std::os::unix::fs::symlink(folder.write("new", "second"), &swapped).unwrap();
    fs::rename(swapped, &link).unwrap();
    assert_eq!(secret.refresh().await, Refreshed::Changed);
    assert_eq!(shown(&secret), "second");
}

#[tokio::test]
async fn a_failing_read_keeps_the_last_value_and_warns_once() {
    let folder = Folder::new();
    let path = folder.write("key", "hunter2");
    let secret = Secret::open(&path, no_blank).unwrap();
    let log = CollectedLog::default();
    let _collecting = log.collect();
    fs::remove_file(&path).unwrap();
    for _ in 0..3 {
        assert_eq!(secret.refresh().await, Refreshed::Failed);
    }
    assert_eq!((shown(&secret).as_str(), secret.version()), ("hunter2", 0));
    assert_eq!(log.text().matches("WARN").count(), 1, "{}", log.text());
    folder.write("key", "hunter 3");
    assert_eq!(secret.refresh().await, Refreshed::Failed);
    assert_eq!(log.text().matches("WARN").count(), 2, "{}", log.text());
    folder.write("key", "hunter4");
    assert_eq!(secret.refresh().await, Refreshed::Changed);
    assert!(log.text().contains("has changed"));
    assert!(log.text().contains(&path.display().to_string()));
    assert!(!log.text().contains("hunter"), "{}", log.text());
    fs::remove_file(&path).unwrap();
    assert_eq!(secret.refresh().await, Refreshed::Failed);
    assert_eq!(log.text().matches("WARN").count(), 3, "{}", log.text());
}

#[tokio::test]
async fn watching_sees_a_change_and_ends_when_cancelled() {
    let folder = Folder::new();
    folder.write("key", "first");
    let secret = Secret::open(folder.0.join("key"), anything).unwrap();
    let cancel = CancellationToken::new();
    let secrets = vec![Secret::fixed("fixed"), secret.clone()];
    let watching = tokio::spawn(watch(secrets, Duration::from_millis(5), cancel.clone()));
    folder.write("key", "second");
    // The write truncates first: a read in between finds the file empty and keeps the value.
    assert_eq!(secret.changed_since(0).await, 1);
    assert_eq!(shown(&secret), "second");
    cancel.cancel();
    watching.await.unwrap();
}

#[tokio::test]
async fn an_interval_of_zero_does_not_panic() {
    let cancel = CancellationToken::new();
    cancel.cancel();
    watch(vec![Secret::fixed("a")], Duration::ZERO, cancel).await;
}
