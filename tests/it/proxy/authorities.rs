//! `trackfinity.ca_file`: the authorities to trust for Trackfinity.

use std::path::Path;

use kit::Certificate;

use super::place::{Place, check, find, paused};
use crate::world::{SOON, text};

#[test]
fn only_the_authorities_of_the_file_are_trusted_and_a_new_file_is_read_without_a_restart() {
    kit::run(async |ctx| {
        let place = Place::new(&ctx);
        let other = Certificate::issued();
        let issuer = std::fs::read_to_string(&place.ca_file).expect("a file");
        let write = |pem: &str| place.secrets.write("ca.pem", pem);
        write(other.authority_pem());
        let ops = format!("127.0.0.1:{}", kit::free_port());
        // The system's authorities would do.
        let system = place.secrets.write("system.pem", &issuer);
        let program = place.worker().env("SSL_CERT_FILE", system).env("UNLOCKER__OPS__LISTEN", &ops);
        let (worker, outcomes) = place.start(program).await;
        place.publish(20).await;
        let said = "Trackfinity's certificate is not accepted: its issuer is not trusted";
        let advice = "Check trackfinity.ca_file";
        paused(&ops, 200, &["failures", said, advice]).await;
        let line =
            worker.wait_for_line(|line| line.contains(r#""event":"certificate_not_accepted""#), SOON).await;
        assert!(line.contains(said) && line.contains(advice), "{line}");
        assert_eq!(place.trackfinity.count(), 0);
        // What is no certificate does not replace what is.
        write("nonsense");
        worker
            .wait_for_line(|line| line.contains("secret_unusable") && line.contains("no certificate"), SOON)
            .await;
        // A bundle with comments, as a system's.
        write(&format!("# other\n{}\n# issuer\n{issuer}", other.authority_pem()));
        let all = outcomes.wait_count(20, SOON).await;
        assert!(all.iter().all(|outcome| outcome.json()["status"] == "unlocked"));
        place.assert_no_dead_letter().await;
        // An authority that is gone is not trusted any more, also where a connection is still open.
        write(other.authority_pem());
        let changes = || worker.stderr().iter().filter(|line| line.contains("secret_changed")).count();
        kit::eventually("the file is read again", SOON, async || changes() == 2).await;
        place.publish(20).await;
        paused(&ops, 200, &["failures", said]).await;
        write(&issuer);
        outcomes.wait_count(40, SOON).await;
        assert_eq!(place.trackfinity.count(), 40);
        place.assert_no_dead_letter().await;
    });
}

#[test]
fn a_file_without_authorities_is_a_fault_of_the_settings() {
    kit::run(async |ctx| {
        let place = Place::new(&ctx);
        let system = Path::new("/etc/ssl/certs/ca-certificates.crt");
        for (content, wrong) in [
            (Some("nonsense"), "holds no certificate in PEM"),
            (
                Some("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"),
                "cannot be read: write each as PEM",
            ),
            (None, "cannot be read: No such file"),
        ] {
            let file = content
                .map_or_else(|| "/no/such/file".into(), |content| place.secrets.write("broken.pem", content));
            let checked =
                check(&ctx, place.program("check").env("UNLOCKER__TRACKFINITY__CA_FILE", file)).await;
            let fault = find(&checked, "trackfinity.ca_file");
            assert!(text(&fault["detail"]).contains(wrong), "{fault}");
        }
        // As large as a system's bundle.
        if system.is_file() {
            let checked =
                check(&ctx, place.program("check").env("UNLOCKER__TRACKFINITY__CA_FILE", system)).await;
            assert_eq!(find(&checked, "settings")["ok"], true, "{checked:#}");
        }
    });
}
