//! A directory with the files of one program, as Kubernetes mounts them.

use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
};

/// A directory that is gone when the test ends.
pub struct Folder(PathBuf);

impl Folder {
    pub fn new() -> Self {
        let path = std::env::temp_dir().join(format!("unlocker-identity-{}", uuid::Uuid::now_v7()));
        fs::create_dir_all(&path).expect("a directory");
        Self(path)
    }

    pub fn path(&self, name: &str) -> String {
        self.0.join(name).to_string_lossy().into_owned()
    }

    /// Writes the file in its place, and returns its path.
    pub fn write(&self, name: &str, content: &str) -> String {
        fs::write(self.0.join(name), content).expect("written");
        self.path(name)
    }

    /// Replaces the file as kubelet does: the file is a link into `..data`, and `..data` a link to a directory, which
    /// is replaced by one to a new directory.
    pub fn swap(&self, name: &str, content: &str) -> String {
        let version = format!("..{}", uuid::Uuid::now_v7());
        fs::create_dir(self.0.join(&version)).expect("a directory");
        fs::write(self.0.join(&version).join(name), content).expect("written");
        let (data, new) = (self.0.join("..data"), self.0.join("..data_tmp"));
        symlink(&version, &new).expect("a link");
        fs::rename(&new, &data).expect("a link in the place of another");
        let file = self.0.join(name);
        if !file.is_symlink() {
            symlink(Path::new("..data").join(name), &file).expect("a link");
        }
        self.path(name)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        drop(fs::remove_dir_all(&self.0));
    }
}
