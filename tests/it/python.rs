//! Real Python client libraries.

use std::{fs, path::PathBuf, process::Command};

/// The Python of an environment that has the packages; made once for each name, and kept.
pub fn python(name: &str, packages: &[&str]) -> PathBuf {
    let home = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
    let (python, ready) = (home.join("bin/python"), home.join("ready"));
    fs::create_dir_all(&home).expect("a directory");
    // Test processes run at the same time: one makes it, the others wait.
    let lock = fs::File::create(home.join("lock")).expect("a file");
    lock.lock().expect("locked");
    let wanted = packages.join("\n");
    if fs::read_to_string(&ready).is_ok_and(|made| made == wanted) {
        return python;
    }
    let venv = Command::new("python3").args(["-m", "venv"]).arg(&home).output();
    match venv {
        Ok(made) if made.status.success() => {}
        Ok(made) => panic!(
            "python3 makes no virtual environment: install its venv module (Debian: apt-get install \
             python3-venv)\n{}{}",
            String::from_utf8_lossy(&made.stdout),
            String::from_utf8_lossy(&made.stderr)
        ),
        Err(error) => {
            panic!("python3 does not start: install it (Debian: apt-get install python3-venv): {error}")
        }
    }
    let pip = Command::new(&python).args(["-m", "pip", "install", "--quiet"]).args(packages).output();
    let pip = pip.expect("the environment's Python starts");
    let errors = String::from_utf8_lossy(&pip.stderr);
    assert!(
        pip.status.success(),
        "pip installs no {packages:?}: the test needs them from PyPI, once\n{errors}"
    );
    fs::write(&ready, wanted).expect("written");
    python
}
