use std::os::unix::{ffi::OsStrExt, fs::symlink};

use proptest::prelude::*;

use super::*;
use crate::gateway::clients::file::Credentials;

/// The fault of a file with this content: its line, and what is wrong.
fn fault(content: impl AsRef<[u8]>) -> (Option<usize>, String) {
    let faults = Credentials::parse(content.as_ref()).err().expect("a fault");
    let [fault] = faults.as_slice() else { panic!("{faults:?}") };
    assert!(!fault.remedy.is_empty());
    (fault.line, fault.wrong.clone())
}

fn counts(content: &str) -> (usize, usize, Option<f64>) {
    let credentials = Credentials::parse(content.as_bytes()).unwrap_or_else(|faults| panic!("{faults:?}"));
    let rate = credentials.rate.map(|rate| rate.per_second());
    (credentials.tokens.len(), credentials.keys.len(), rate)
}

#[test]
fn a_file_holds_tokens_signing_secrets_a_rate_and_comments() {
    assert_eq!(counts(TOKEN), (1, 0, None));
    assert_eq!(counts(SIGNING_SECRET), (0, 1, None));
    let all = format!(
        "# the shop, rotated in May = soon\r\n{TOKEN}\r\n\r\n{OTHER_TOKEN} \t\n# rate=2.5\n  \n#\n{SIGNING_SECRET}\n{OTHER_SIGNING_SECRET}\n"
    );
    assert_eq!(counts(&all), (2, 2, Some(2.5)));
    assert_eq!(counts(&format!("\u{feff}{TOKEN}\n")), (1, 0, None), "with a byte order mark");
    assert_eq!(counts(&format!("{TOKEN}\n{TOKEN}\n")), (1, 0, None), "the same twice is one");
    for rate in ["#rate=20", "# rate = 20", "#  RATE=20.0", "# rate=2e1"] {
        assert_eq!(counts(&format!("{TOKEN}\n{rate}")), (1, 0, Some(20.0)), "{rate}");
    }
}

#[test]
fn the_example_of_the_page_is_a_client() {
    let (_, after) = include_str!("../../../../docs/http.md").split_once("```\n# The shop").unwrap();
    assert_eq!(counts(&format!("# The shop{}", after.split_once("```").unwrap().0)), (2, 1, Some(20.0)));
}

#[test]
fn a_signing_secret_has_24_to_64_bytes_with_or_without_padding() {
    use base64::{Engine, engine::general_purpose::STANDARD};
    for (bytes, fits) in [(0, false), (23, false), (24, true), (25, true), (64, true), (65, false)] {
        let encoded = STANDARD.encode(vec![7; bytes]);
        for encoded in [encoded.as_str(), encoded.trim_end_matches('=')] {
            assert_eq!(Credentials::parse(format!("whsec_{encoded}").as_bytes()).is_ok(), fits, "{bytes}");
        }
    }
    assert_eq!(fault("whsec_").1, "is a signing secret of 0 bytes, which must have 24 to 64");
    for wrong in
        ["whsec_?", "whsec_C2FVsBQIhrscChlQIMV-b5sSYspob7oD", "whsec_C2FVsBQIhrscChlQ IMV+b5sSYspob7oD"]
    {
        assert_eq!(fault(wrong), (Some(1), "is a signing secret that is not base64".to_owned()), "{wrong}");
    }
}

#[test]
fn each_fault_has_its_line_and_none_shows_a_secret() {
    let short = &TOKEN[1..];
    for (content, line, wrong) in [
        (String::new(), None, "holds no secret"),
        ("# only a comment\n\n".into(), None, "holds no secret"),
        (format!("{TOKEN}\n{short}"), Some(2), "is a bearer token of fewer than 32 characters"),
        (
            format!("\n {TOKEN}"),
            Some(2),
            "contains a blank: a bearer token has none, a comment begins with #",
        ),
        (format!("{TOKEN}ä"), Some(1), "contains a character other than visible ASCII"),
        (format!("{TOKEN}\u{7f}"), Some(1), "contains a character other than visible ASCII"),
        (format!("{TOKEN}\u{feff}"), Some(1), "contains a character other than visible ASCII"),
        (
            "whpk_C2FVsBQIhrscChlQIMV+b5sSYspob7oDC2FVsBQIhrs".into(),
            Some(1),
            "is an asymmetric key of Standard Webhooks, which cannot be used here",
        ),
        (format!("{TOKEN}\n# rate=2\n# rate=3"), Some(3), "is a second rate"),
    ] {
        let found = fault(&content);
        assert_eq!((found.0, found.1.as_str()), (line, wrong), "{content:?}");
    }
    for rate in ["", "0", "-1", "nan", "inf", "1e9", "0.0001", "20/s", "20 per second", "1,5"] {
        let (line, wrong) = fault(format!("{TOKEN}\n# rate={rate}\n"));
        assert_eq!((line, wrong.as_str()), (Some(2), "is a rate that is not a number from 0.001 to 1000000"));
    }
    assert_eq!(fault([0xff, 0xfe]).1, "is not valid UTF-8");
}

#[test]
fn every_fault_of_a_directory_is_listed_at_once() {
    let folder = Folder::new(&[
        ("a.shop", &format!("{TOKEN}\n{OTHER_SIGNING_SECRET}\n")),
        ("b-mail", &format!("# ours\nhunter2\nwhsec_hunter3?\n# rate=fast\n{OTHER_TOKEN}\n")),
        ("c", ""),
        ("d", &format!("{THIRD_TOKEN}\n{OTHER_SIGNING_SECRET}\n{TOKEN}\n")),
        ("local", TOKEN),
        ("sh op", TOKEN),
        (&"x".repeat(65), TOKEN),
    ]);
    folder.write("large", "#".repeat(65_537));
    folder.write("binary", [0xff]);
    fs::create_dir(folder.file("nested")).unwrap();
    symlink("nowhere", folder.file("dangling")).unwrap();
    fs::write(folder.path().join(std::ffi::OsStr::from_bytes(b"\xff\n")), TOKEN).unwrap();
    let error = folder.open().unwrap_err();
    let text = error.to_string();
    let expected = [
        "a.shop, line 1\n     is a secret that another client has, too: d",
        "a.shop, line 2\n     is a secret that another client has, too: d",
        "b-mail, line 2\n     is a bearer token of fewer than 32 characters",
        "b-mail, line 3\n     is a signing secret that is not base64",
        "b-mail, line 4\n     is a rate that is not a number",
        "c\n     holds no secret",
        "d, line 2\n     is a secret that another client has, too: a.shop",
        "d, line 3\n     is a secret that another client has, too: a.shop",
        "\"local\"\n     is the name of the client of a gateway without a directory",
        "\"sh op\"\n     is not a name for a client",
        "xxx\"\n     is not a name for a client",
        "large\n     is larger than 64 KiB",
        "binary\n     is not valid UTF-8",
        "nested\n     is not a regular file",
        "dangling\n     leads to no file",
        "\"\u{fffd}\\n\"\n     is not a name for a client",
    ];
    for expected in expected {
        assert!(text.contains(expected), "{expected}\n\n{text}");
    }
    assert_eq!(error.faults.len(), expected.len(), "{text}");
    assert!(text.starts_with(&format!("the clients in {} have 16 faults:", folder.path().display())));
    let debug = format!("{error:?}");
    for secret in [TOKEN, OTHER_TOKEN, THIRD_TOKEN, "hunter", "MfKQ9r8"] {
        assert!(!text.contains(secret) && !debug.contains(secret), "{text}");
    }
}

#[test]
fn a_directory_without_a_client_or_that_is_missing_is_a_fault() {
    let folder = Folder::new(&[(".hidden", "")]);
    assert!(folder.open().unwrap_err().to_string().contains("holds no client"));
    let error = Clients::open(&folder.file("none")).unwrap_err().to_string();
    assert!(error.contains("the directory\n     cannot be read: No such file"), "{error}");
    folder.write("file", TOKEN);
    let error = Clients::open(&folder.file("file")).unwrap_err().to_string();
    assert!(error.contains("cannot be read: Not a directory"), "{error}");
}

#[test]
fn nothing_shows_a_secret_in_debug() {
    let folder = Folder::new(&[("shop", TOKEN)]);
    let clients = folder.open().unwrap();
    assert_eq!(format!("{clients:?}"), format!("[clients in {}]", folder.path().display()));
    let identified = clients.identify(peer(), &bearer(TOKEN)).unwrap();
    assert_eq!(format!("{identified:?}"), "Client(Client(\"shop\"))");
    assert_eq!(format!("{:?}", Clients::local()), "local");
}

proptest! {
    #[test]
    fn any_bytes_are_a_client_or_faults_with_lines_that_exist(
        content in prop_oneof![
            proptest::collection::vec(any::<u8>(), 0..200),
            "(whsec_[A-Za-z0-9+/=]{0,90}|# ?rate ?=.{0,8}|[!-~]{30,40}|.{0,40}|\r|\n){0,12}".prop_map(String::into_bytes),
        ],
    ) {
        match Credentials::parse(&content) {
            Ok(credentials) => prop_assert!(credentials.secrets().count() > 0),
            Err(faults) => {
                prop_assert!(!faults.is_empty());
                let lines = content.split(|byte| *byte == b'\n').count();
                prop_assert!(faults.iter().all(|fault| fault.line.is_none_or(|line| (1..=lines).contains(&line))));
            }
        }
    }
}
