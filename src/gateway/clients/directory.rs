//! Reads the clients' directory. Blocks on the disk.

use std::{
    collections::BTreeMap,
    ffi::OsStr,
    fs,
    io::{self, Read},
    path::Path,
};

use secrecy::zeroize::Zeroizing;

use super::{client::LOCAL, error::ClientFault, file::Credentials};

/// The largest file that is read, in bytes.
const MAX_FILE_BYTES: u64 = 64 * 1024;
/// The longest name of a client, in characters.
const MAX_NAME_CHARS: usize = 64;

/// What a name in the directory leads to.
pub(super) enum Found {
    Usable(Credentials),
    /// At least one fault.
    Unusable(Vec<ClientFault>),
    /// A symlink to nothing, or a file that was removed meanwhile. Kubernetes removes a key of a
    /// mounted Secret in two steps.
    Gone,
}

/// What the directory holds, by name.
pub(super) type Listing = BTreeMap<String, Found>;

/// Reads all files of `directory`. Hidden names are skipped: a mounted Secret holds its files in
/// `..data` and directories beside it, with a symlink to each file.
///
/// # Errors
/// If the directory cannot be listed. What is wrong with a file is part of the listing.
pub(super) fn read(directory: &Path) -> io::Result<Listing> {
    let mut listing = Listing::new();
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let name = entry.file_name();
        if name.as_encoded_bytes().starts_with(b".") {
            continue;
        }
        match check_name(&name) {
            Ok(name) => listing.insert(name.to_owned(), read_file(&entry.path())),
            Err(fault) => listing.insert(escaped(&name), Found::Unusable(vec![fault])),
        };
    }
    Ok(listing)
}

fn read_file(path: &Path) -> Found {
    match content(path) {
        Ok(content) => match Credentials::parse(&content) {
            Ok(credentials) => Found::Usable(credentials),
            Err(faults) => Found::Unusable(faults),
        },
        Err(Unreadable::Io(error)) if error.kind() == io::ErrorKind::NotFound => Found::Gone,
        Err(error) => Found::Unusable(vec![error.fault()]),
    }
}

enum Unreadable {
    Io(io::Error),
    NotAFile,
    TooLarge,
}

impl From<io::Error> for Unreadable {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl Unreadable {
    fn fault(self) -> ClientFault {
        match self {
            Self::Io(error) => {
                let wrong = format!("cannot be read: {error}");
                ClientFault::new(wrong, "give the gateway's user the right to read it")
            }
            Self::NotAFile => {
                ClientFault::new("is not a regular file", "keep only the clients' files in this directory")
            }
            Self::TooLarge => {
                ClientFault::new("is larger than 64 KiB", "write only the client's secrets, a line each")
            }
        }
    }
}

fn content(path: &Path) -> Result<Zeroizing<Vec<u8>>, Unreadable> {
    // Checked before opening: opening a pipe blocks until someone writes to it.
    if !fs::metadata(path)?.is_file() {
        return Err(Unreadable::NotAFile);
    }
    let mut bytes = Zeroizing::default();
    fs::File::open(path)?.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MAX_FILE_BYTES { Err(Unreadable::TooLarge) } else { Ok(bytes) }
}

fn check_name(name: &OsStr) -> Result<&str, ClientFault> {
    let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    match name.to_str() {
        Some(LOCAL) => {
            let wrong = "is the name of the client of a gateway without a directory";
            Err(ClientFault::new(wrong, "choose another name"))
        }
        Some(text) if text.len() <= MAX_NAME_CHARS && text.bytes().all(is_allowed) => Ok(text),
        _ => {
            let wrong = "is not a name for a client: 1 to 64 of the characters A-Z a-z 0-9 . _ -";
            Err(ClientFault::new(wrong, "rename the file, or keep it out of this directory"))
        }
    }
}

/// A file's name that may hold anything, for a message.
fn escaped(name: &OsStr) -> String {
    let text = name.to_string_lossy();
    let mut short: String = text.chars().take(80).collect();
    if short.len() < text.len() {
        short.push('…');
    }
    format!("{short:?}")
}
