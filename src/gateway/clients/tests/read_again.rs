use std::{
    os::unix::fs::{PermissionsExt, symlink},
    time::Duration,
};

use kit::CollectedLog;
use tokio_util::sync::CancellationToken;
use tracing::Dispatch;

use super::*;
use crate::gateway::clients::access::Reported;

/// The lines since the last call.
fn logged(log: &CollectedLog) -> String {
    let lines = log.take();
    for secret in [TOKEN, OTHER_TOKEN, THIRD_TOKEN, "C2FVsBQI", "hunter"] {
        assert!(!lines.contains(secret), "{lines}");
    }
    lines
}

/// Clients, with all that a test of reading again needs.
struct Scene {
    folder: Folder,
    clients: Clients,
    reported: Reported,
    log: CollectedLog,
    _collecting: (tracing::subscriber::DefaultGuard, Dispatch),
}

impl Scene {
    fn new(files: &[(&str, &str)]) -> Self {
        Self::in_folder(Folder::new(files))
    }

    fn in_folder(folder: Folder) -> Self {
        let log = CollectedLog::default();
        let _collecting = log.collect();
        Self { clients: folder.open().unwrap(), folder, reported: Reported::default(), log, _collecting }
    }

    /// Reads the directory again, and returns what was logged.
    async fn read_again(&mut self) -> String {
        logged(&self.log);
        self.clients.read_again(&mut self.reported).await;
        logged(&self.log)
    }

    fn has(&self, token: &str) -> Option<String> {
        has(&self.clients, token)
    }
}

/// `..data` leads to a directory of its own for each version, and is swapped by a rename.
struct Mount<'a> {
    folder: &'a Folder,
    version: u32,
}

impl Mount<'_> {
    fn swap(&mut self, files: &[(&str, &str)]) {
        self.version += 1;
        let name = format!("..2026_11_29_{}", self.version);
        fs::create_dir(self.folder.file(&name)).unwrap();
        for (file, content) in files {
            fs::write(self.folder.file(&name).join(file), content).unwrap();
        }
        symlink(&name, self.folder.file("..data_tmp")).unwrap();
        fs::rename(self.folder.file("..data_tmp"), self.folder.file("..data")).unwrap();
    }

    fn link(&self, name: &str) {
        symlink(Path::new("..data").join(name), self.folder.file(name)).unwrap();
    }
}

#[tokio::test]
async fn a_mounted_secret_of_kubernetes_is_followed_through_its_swaps() {
    let folder = Folder::new(&[]);
    let mut mount = Mount { folder: &folder, version: 0 };
    mount.swap(&[("mail", OTHER_TOKEN), ("shop", TOKEN)]);
    mount.link("mail");
    mount.link("shop");
    let log = CollectedLog::default();
    let _collecting = log.collect();
    let (clients, mut reported) = (folder.open().unwrap(), Reported::default());
    assert_eq!(names(&clients), ["mail", "shop"]);
    clients.read_again(&mut reported).await;
    assert_eq!(logged(&log), "", "nothing has changed");

    // A key is added: first the data, then its symlink. The other is removed the other way round.
    mount.swap(&[("shop", &format!("{TOKEN}\n{THIRD_TOKEN}")), ("till", SIGNING_SECRET)]);
    clients.read_again(&mut reported).await;
    assert_eq!(names(&clients), ["shop"], "the symlink of mail leads to nothing");
    let lines = logged(&log);
    assert!(lines.contains(r#"changed="shop" removed="mail" clients=1"#), "{lines}");
    assert!(!lines.contains("WARN"), "{lines}");
    mount.link("till");
    folder.remove("mail");
    clients.read_again(&mut reported).await;
    assert_eq!(names(&clients), ["shop", "till"]);
    assert!(logged(&log).contains(r#"added="till" clients=2"#));
    assert_eq!((has(&clients, OTHER_TOKEN), has(&clients, THIRD_TOKEN)), (None, Some("shop".to_owned())));
}

#[tokio::test]
async fn a_changed_file_is_read_again_and_all_clones_see_it() {
    let mut scene = Scene::new(&[("shop", TOKEN)]);
    let clone = scene.clients.clone();
    scene.folder.write("shop", format!("{TOKEN}\n{OTHER_TOKEN}\n"));
    let lines = scene.read_again().await;
    assert!(
        lines.contains("INFO") && lines.contains(r#"event="clients_changed" changed="shop" clients=1"#),
        "{lines}"
    );
    assert_eq!((has(&clone, TOKEN), has(&clone, OTHER_TOKEN)), (Some("shop".into()), Some("shop".into())));
    scene.folder.write("shop", OTHER_TOKEN);
    assert!(scene.read_again().await.contains("clients_changed"));
    assert_eq!((has(&clone, TOKEN), has(&clone, OTHER_TOKEN)), (None, Some("shop".into())));
    scene.folder.write("shop", format!("# a comment is no change\n{OTHER_TOKEN}\n"));
    assert_eq!(scene.read_again().await, "");
}

#[tokio::test]
async fn a_signature_is_verified_with_the_secrets_of_the_time_when_the_body_is_there() {
    let mut scene = Scene::new(&[("shop", SIGNING_SECRET)]);
    let head = signed(SIGNING_SECRET, "evt_1", &NOW.to_string(), b"{}");
    let Ok(Identified::Signed(signed)) = scene.clients.identify(peer(), &head) else { panic!("not signed") };
    scene.folder.write("shop", OTHER_SIGNING_SECRET);
    scene.read_again().await;
    assert!(signed.verify(b"{}", now()).is_err());
}

#[tokio::test]
async fn a_file_with_a_fault_keeps_its_client_as_it_was_and_is_logged_once() {
    let mut scene = Scene::new(&[("mail", OTHER_TOKEN), ("shop", TOKEN)]);
    scene.folder.write("shop", "hunter2\n# rate=0");
    scene.folder.write("mail", THIRD_TOKEN);
    let lines = scene.read_again().await;
    assert!(lines.contains(r#"changed="mail" clients=2"#), "{lines}");
    assert!(lines.contains("WARN") && lines.contains(r#"event="clients_unusable""#), "{lines}");
    assert!(
        lines.contains("line 1 is a bearer token of fewer") && lines.contains("; line 2 is a rate"),
        "{lines}"
    );
    assert_eq!(scene.read_again().await, "");
    assert_eq!((scene.has(TOKEN), scene.has(THIRD_TOKEN)), (Some("shop".into()), Some("mail".into())));
    scene.folder.write("shop", "");
    let lines = scene.read_again().await;
    assert!(lines.contains("holds no secret"), "another fault: {lines}");
    scene.folder.write("new", "hunter2");
    assert!(scene.read_again().await.contains("/new"));
    assert_eq!(names(&scene.clients), ["mail", "shop"]);
    scene.folder.write("shop", TOKEN);
    scene.folder.remove("new");
    let lines = scene.read_again().await;
    assert_eq!(lines.matches("clients_readable").count(), 2, "{lines}");
    assert!(!lines.contains("clients_changed"), "{lines}");
}

#[tokio::test]
async fn a_removed_file_removes_its_client_even_the_last() {
    let mut scene = Scene::new(&[("mail", OTHER_TOKEN), ("shop", TOKEN)]);
    scene.folder.remove("shop");
    assert!(scene.read_again().await.contains(r#"removed="shop" clients=1"#));
    assert_eq!((scene.has(TOKEN), scene.has(OTHER_TOKEN)), (None, Some("mail".into())));
    scene.folder.remove("mail");
    assert!(scene.read_again().await.contains(r#"removed="mail" clients=0"#));
    assert_eq!(names(&scene.clients), [""; 0]);
    scene.folder.write("shop", TOKEN);
    assert!(scene.read_again().await.contains(r#"added="shop" clients=1"#));
    assert_eq!(scene.has(TOKEN), Some("shop".into()));
}

#[tokio::test]
async fn a_directory_that_cannot_be_read_keeps_all_clients() {
    let outer = tempfile::tempdir().unwrap();
    let (directory, aside) = (outer.path().join("clients"), outer.path().join("aside"));
    fs::create_dir(&directory).unwrap();
    fs::write(directory.join("shop"), TOKEN).unwrap();
    let log = CollectedLog::default();
    let _collecting = log.collect();
    let (clients, mut reported) = (Clients::open(&directory).unwrap(), Reported::default());
    fs::rename(&directory, &aside).unwrap();
    for _ in 0..3 {
        clients.read_again(&mut reported).await;
    }
    let lines = logged(&log);
    assert_eq!(lines.matches("clients_unusable").count(), 1, "{lines}");
    assert!(lines.contains("cannot be read: No such file"), "{lines}");
    assert_eq!(has(&clients, TOKEN), Some("shop".into()));
    fs::rename(&aside, &directory).unwrap();
    clients.read_again(&mut reported).await;
    assert!(logged(&log).contains("clients_readable"));
}

#[tokio::test]
async fn a_file_that_may_not_be_read_keeps_its_client() {
    let mut scene = Scene::new(&[("mail", OTHER_TOKEN), ("shop", TOKEN)]);
    fs::set_permissions(scene.folder.file("shop"), fs::Permissions::from_mode(0o000)).unwrap();
    // Root may read everything: then nothing changes either.
    scene.read_again().await;
    assert_eq!(scene.has(TOKEN), Some("shop".into()));
    scene.folder.remove("shop");
    fs::create_dir(scene.folder.file("shop")).unwrap();
    assert!(scene.read_again().await.contains("is not a regular file"));
    assert_eq!(scene.has(TOKEN), Some("shop".into()));
}

#[tokio::test]
async fn clients_may_swap_their_secrets_but_never_share_one() {
    let mut scene = Scene::new(&[("mail", OTHER_TOKEN), ("shop", TOKEN), ("till", THIRD_TOKEN)]);
    scene.folder.write("mail", TOKEN);
    scene.folder.write("shop", OTHER_TOKEN);
    let lines = scene.read_again().await;
    assert!(lines.contains(r#"changed="mail, shop" clients=3"#) && !lines.contains("WARN"), "{lines}");
    assert_eq!((scene.has(TOKEN), scene.has(OTHER_TOKEN)), (Some("mail".into()), Some("shop".into())));

    // mail takes what shop had, and shop what till has and keeps: no one of them changes.
    scene.folder.write("mail", OTHER_TOKEN);
    scene.folder.write("shop", THIRD_TOKEN);
    let lines = scene.read_again().await;
    assert!(lines.contains("line 1 is a secret that another client has, too: till"), "{lines}");
    assert!(lines.contains("line 1 is a secret that another client has, too: shop"), "{lines}");
    assert!(!lines.contains("clients_changed"), "{lines}");
    for (token, name) in [(TOKEN, "mail"), (OTHER_TOKEN, "shop"), (THIRD_TOKEN, "till")] {
        assert_eq!(scene.has(token).as_deref(), Some(name));
    }
    scene.folder.remove("till");
    let lines = scene.read_again().await;
    assert!(lines.contains(r#"changed="mail, shop" removed="till" clients=2"#), "{lines}");
    assert_eq!((scene.has(OTHER_TOKEN), scene.has(THIRD_TOKEN)), (Some("mail".into()), Some("shop".into())));
}

#[tokio::test]
async fn an_unchanged_rate_continues_when_a_secret_changes() {
    let mut scene = Scene::new(&[("shop", &format!("{TOKEN}\n# rate=0.001"))]);
    let allow = |scene: &Scene, token: &str| match scene.clients.identify(peer(), &bearer(token)).unwrap() {
        Identified::Client(client) => client.allow(1),
        Identified::Signed(_) => panic!("not signed"),
    };
    assert!(allow(&scene, TOKEN).is_ok());
    scene.folder.write("shop", format!("{TOKEN}\n{OTHER_TOKEN}\n# rate=0.001"));
    assert!(scene.read_again().await.contains("clients_changed"));
    assert!(allow(&scene, OTHER_TOKEN).is_err(), "a new secret brings no new burst");
    scene.folder.write("shop", format!("{TOKEN}\n{OTHER_TOKEN}\n# rate=2"));
    assert!(scene.read_again().await.contains("clients_changed"));
    assert!(allow(&scene, TOKEN).is_ok());
}

#[tokio::test]
async fn watching_sees_a_change_and_ends_when_stopped() {
    let folder = Folder::new(&[("shop", TOKEN)]);
    let (clients, stop) = (folder.open().unwrap(), CancellationToken::new());
    let watching = tokio::spawn(clients.clone().watch(stop.clone()));
    folder.write("shop", OTHER_TOKEN);
    let changed = async {
        while has(&clients, OTHER_TOKEN).is_none() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), changed).await.unwrap();
    stop.cancel();
    watching.await.unwrap();
    let stop = CancellationToken::new();
    let watching = tokio::spawn(Clients::local().watch(stop.clone()));
    stop.cancel();
    watching.await.unwrap();
}
