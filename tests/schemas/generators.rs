//! Types that code generators make of the schemas: they compile, have names of their own, and read
//! every example and an outcome whose status is not known today.

use std::{fs, path::Path, process::Command};

use super::examples;

/// Runs a generator's script, and returns what it prints.
fn generate(program: &str, script: &str) -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let got = Command::new("scripts/get-clients").arg("generators").current_dir(root).output();
    let got = got.expect("scripts/get-clients runs");
    assert!(got.status.success(), "{}", String::from_utf8_lossy(&got.stderr));
    let out = Path::new(env!("CARGO_TARGET_TMPDIR")).join(script.replace('.', "-"));
    if out.exists() {
        fs::remove_dir_all(&out).expect("removed");
    }
    fs::create_dir_all(&out).expect("created");
    let unlocked = examples::files("outcome-unlocked").into_values().next().expect("an example");
    let unknown = out.join("outcome-unknown.json");
    fs::write(&unknown, unlocked.to_string().replace("\"unlocked\"", "\"postponed\"")).expect("written");
    let names = ["outcome-", "request-"]
        .map(examples::files)
        .into_iter()
        .flat_map(std::collections::BTreeMap::into_keys);
    // A CloudEvent's schema is not ours.
    let files =
        names.filter(|name| !name.contains("cloudevent")).map(|name| root.join("docs/examples").join(name));
    let ran = Command::new(program)
        .arg(root.join("tests/schemas/generators").join(script))
        .args([out.join("types"), root.join("docs/schemas")])
        .args(files)
        .arg(unknown)
        .env(
            "PATH",
            format!("{}:{}", root.join("target/node/bin").display(), std::env::var("PATH").expect("a PATH")),
        )
        .output()
        .expect("the generator runs");
    let printed = String::from_utf8_lossy(&ran.stdout).into_owned();
    assert!(ran.status.success(), "{printed}{}", String::from_utf8_lossy(&ran.stderr));
    printed
}

#[test]
fn types_by_quicktype_and_modelina_compile_and_read_every_example() {
    let printed = generate("node", "generate.js");
    assert!(printed.contains("examples read"), "{printed}");
}

#[test]
fn types_by_datamodel_code_generator_read_every_example() {
    let python = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/schemas/generators/.venv/bin/python");
    let printed = generate(&python.to_string_lossy(), "generate.py");
    assert!(printed.contains("examples read"), "{printed}");
}
