//! `unlocker config`, `completions` and `man`.

use kit::Program;

use crate::world::{SOON, unlocker};

fn bare() -> Program {
    Program::new(env!("CARGO_BIN_EXE_unlocker"))
}

#[test]
fn the_printed_defaults_are_a_settings_file() {
    kit::run(async |ctx| {
        let config = ctx.start(&bare().arg("config"));
        assert_eq!(config.wait_exit(SOON).await.code(), Some(0));
        let defaults = include_str!("../../config/default.toml");
        assert_eq!(config.stdout().join("\n"), defaults.trim_end());
        let file = std::env::temp_dir().join(format!("unlocker-{}.toml", uuid::Uuid::now_v7()));
        std::fs::write(&file, config.stdout().join("\n")).expect("a file");
        let nowhere = format!("amqp://127.0.0.1:{}", kit::free_port());
        let check = unlocker(&nowhere, "http://127.0.0.1:1").arg("check").arg("--config").arg(&file);
        let check = ctx.start(&check);
        let code = check.wait_exit(SOON).await.code();
        std::fs::remove_file(&file).expect("removed");
        assert_eq!(code, Some(69), "valid settings, and no RabbitMQ: {:#?}", check.stderr());
    });
}

#[test]
fn completions_load_in_bash_and_exist_for_each_shell() {
    kit::run(async |ctx| {
        let program = env!("CARGO_BIN_EXE_unlocker");
        let script = format!(
            "source <({program} completions bash) && complete -p unlocker && \
             COMP_WORDS=(unlocker dead-letters re) COMP_CWORD=2 && _unlocker unlocker re dead-letters && \
             echo \"${{COMPREPLY[@]}}\""
        );
        let bash = ctx.start(&Program::new("/bin/bash").args(["-c", &script]));
        let code = bash.wait_exit(SOON).await.code();
        let lines = bash.stdout();
        assert_eq!(code, Some(0), "{lines:#?} {:#?}", bash.stderr());
        assert!(lines[0].starts_with("complete ") && lines[0].ends_with(" unlocker"), "{lines:#?}");
        assert_eq!(lines[1], "replay");
        for shell in ["zsh", "fish", "elvish", "powershell"] {
            let script = ctx.start(&bare().args(["completions", shell]));
            assert_eq!(script.wait_exit(SOON).await.code(), Some(0));
            assert!(script.stdout().iter().any(|line| line.contains("dead-letters")), "{shell}");
        }
    });
}

#[test]
fn each_command_has_a_man_page() {
    kit::run(async |ctx| {
        let folder = std::env::temp_dir().join(format!("unlocker-man-{}/man1", uuid::Uuid::now_v7()));
        let man = ctx.start(&bare().arg("man").arg(&folder));
        assert_eq!(man.wait_exit(SOON).await.code(), Some(0), "{:#?}", man.stderr());
        for (page, text) in [
            ("unlocker.1", "unlocker\\-run(1)"),
            ("unlocker-check.1", "\\-\\-probe"),
            ("unlocker-dead-letters.1", "unlocker\\-dead\\-letters\\-replay(1)"),
            ("unlocker-dead-letters-replay.1", "\\-\\-confirm"),
        ] {
            let file = folder.join(page);
            let roff = std::fs::read_to_string(&file).unwrap_or_else(|error| panic!("{page}: {error}"));
            assert!(roff.contains(".TH ") && roff.contains(text), "{page}: {roff}");
            assert!(roff.contains("Examples:"), "{page}: {roff}");
        }
        std::fs::remove_dir_all(folder.parent().expect("a parent")).expect("removed");
    });
}
