//! Pages that show code: what they show is, to the letter, the file that a test runs.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use serde_json::Value;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("docs")
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The file in a line such as `Publish, [publish.py](libraries/pika/publish.py):`.
fn named_file<'a>(line: &'a str, folder: &str) -> Option<&'a str> {
    let (_, link) = line.strip_suffix("):")?.rsplit_once("](")?;
    link.strip_prefix(folder)?.starts_with('/').then_some(link)
}

/// The page with the code of its files. The block after a line that ends with a link to a file and a
/// colon is this file. Also returns the files.
fn with_code(page: &str, folder: &str) -> (String, BTreeSet<String>) {
    let (mut written, mut files) = (String::new(), BTreeSet::new());
    let mut lines = page.lines();
    while let Some(line) = lines.next() {
        written += &format!("{line}\n");
        let Some(file) = named_file(line, folder) else { continue };
        files.insert(file.to_owned());
        let fence = lines.by_ref().find(|line| line.starts_with("```")).expect("a block of code");
        lines.by_ref().find(|line| line == &"```").expect("the end of the code");
        written += &format!("\n{fence}\n{}```\n", read(&root().join(file)));
    }
    (written, files)
}

/// All files in a folder and the folders in it. Packages are in folders with a dot or `node_modules`.
fn files_in(folder: &Path) -> BTreeSet<String> {
    let entries = fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry").path());
    let mut files = BTreeSet::new();
    for path in entries {
        let name = path.file_name().and_then(|name| name.to_str()).expect("a name");
        match path.is_dir() {
            true if name.starts_with('.') || name == "node_modules" || name == "__pycache__" => {}
            true => files.extend(files_in(&path)),
            false => _ = files.insert(path.strip_prefix(root()).expect("in docs").display().to_string()),
        }
    }
    files
}

fn shows_what_runs(page: &str, except: &[&str]) {
    let path = root().join(format!("{page}.md"));
    let shown = read(&path);
    let (expected, files) = with_code(&shown, page);
    if std::env::var_os("UPDATE_DOCS").is_some() {
        fs::write(&path, &expected).expect("written");
    }
    assert_eq!(shown, expected, "UPDATE_DOCS=1 cargo test --test it libraries::page writes it");
    let mut all = files_in(&root().join(page));
    all.retain(|file| !except.iter().any(|name| file.ends_with(name)));
    assert_eq!(files, all, "the page shows every file");
}

#[test]
fn the_page_of_the_libraries_shows_the_code_that_runs() {
    shows_what_runs("libraries", &["/requirements.txt", "/package.json", "/package-lock.json"]);
}

#[test]
fn the_page_about_testing_shows_the_code_that_runs() {
    shows_what_runs("testing", &[]);
}

#[test]
fn the_page_of_the_libraries_names_the_versions_that_ran() {
    let page = read(&root().join("libraries.md"));
    let python = read(&root().join("libraries/requirements.txt"));
    let python = python.lines().map(|line| line.split_once("==").expect("a pinned version"));
    // For docs/testing.md.
    let python = python.filter(|(name, _)| *name != "pytest");
    let node: Value = serde_json::from_str(&read(&root().join("libraries/package.json"))).expect("JSON");
    let node = node["dependencies"].as_object().expect("dependencies");
    let node = node.iter().map(|(name, version)| (name.as_str(), version.as_str().expect("a version")));
    for (name, version) in python.chain(node) {
        let name = name.trim_end_matches("[rabbit]");
        let row = |line: &str| line.contains(&format!("{name} {version} |")) && line.ends_with(" in CI |");
        assert!(page.lines().any(row), "no row says that {name} {version} runs");
    }
}
