//! The seeds of fuzz/, one folder for each target: its corpus begins with them.

use std::{collections::BTreeSet, fs, path::PathBuf};

use proptest::{prelude::*, sample::select};

use super::{
    fuzz, maybe_changed,
    targets::{self, Bytes, Target},
};

/// Targets whose random inputs are changed seeds: no pattern would find many that pass the first check.
const CHANGED: [&str; 5] = [
    "any_login_is_read_or_its_faults_show_no_secret",
    "any_properties_are_read_as_lapin_reads_them",
    "no_other_plan_has_the_digest_of_a_plan",
    "only_a_cookie_that_was_given_is_a_session",
    "only_a_signature_of_these_bytes_is_accepted",
];

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("fuzz")
}

fn names(folder: &str) -> BTreeSet<String> {
    let entries = fs::read_dir(self::folder().join(folder)).expect(folder);
    let stem = |entry: fs::DirEntry| entry.path().file_stem().expect("a name").to_string_lossy().into_owned();
    entries.map(|entry| stem(entry.expect("an entry"))).collect()
}

/// The seeds of a target, by their files.
fn seeds(target: &str) -> Vec<(PathBuf, Vec<u8>)> {
    let entries = fs::read_dir(folder().join("seeds").join(target)).expect(target);
    let paths = entries.map(|entry| entry.expect("an entry").path());
    let mut seeds: Vec<_> = paths.map(|path| (path.clone(), fs::read(path).expect("a seed"))).collect();
    seeds.sort();
    seeds
}

#[test]
fn every_seed_passes_its_target() {
    for (target, check) in targets::ALL {
        let seeds = seeds(target);
        assert!(!seeds.is_empty(), "{target} has no seed");
        for (path, bytes) in seeds {
            let passed = check(&bytes);
            assert!(passed.is_ok(), "{}: {passed:?}", path.display());
        }
    }
}

#[test]
fn changed_seeds_pass_their_target() {
    let changed = targets::ALL.into_iter().filter(|(name, _)| CHANGED.contains(name));
    let changed: Vec<Target> = changed.collect();
    assert_eq!(changed.len(), CHANGED.len());
    for (target, check) in changed {
        let seeds: Vec<_> = seeds(target).into_iter().map(|(_, bytes)| bytes).collect();
        fuzz(target, maybe_changed(select(seeds)).prop_map(Bytes), |Bytes(bytes)| check(&bytes));
    }
}

#[test]
fn the_examples_of_requests_are_seeds() {
    let seeds = seeds("any_body_is_a_request_or_a_fault");
    for example in fs::read_dir(folder().join("../docs/examples")).expect("examples") {
        let path = example.expect("an entry").path();
        if path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("request-")) {
            let example = fs::read(&path).expect("an example");
            assert!(seeds.iter().any(|(_, seed)| seed.ends_with(&example)), "{}", path.display());
        }
    }
}

#[test]
fn each_target_has_a_program_and_seeds_of_its_name() {
    let targets: BTreeSet<_> = targets::ALL.map(|(name, _)| name.to_owned()).into();
    assert_eq!(names("fuzz_targets"), targets);
    assert_eq!(names("seeds"), targets);
    let manifest = fs::read_to_string(folder().join("Cargo.toml")).expect("a manifest");
    let programs = manifest
        .lines()
        .filter_map(|line| line.strip_prefix("path = \"fuzz_targets/")?.strip_suffix(".rs\""));
    assert_eq!(programs.map(str::to_owned).collect::<BTreeSet<_>>(), targets);
}
