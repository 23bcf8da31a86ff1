//! Wrong hosts, ports, users, virtual hosts, rights and prefixes.

use crate::mistakes::mistake::{Mistake, typed};

const URL: &str = "UNLOCKER__BROKER__URL";
const PREFIX: &str = "UNLOCKER__TOPOLOGY__PREFIX";
const BASE_URL: &str = "UNLOCKER__TRACKFINITY__BASE_URL";
const PUBLISH: &str = "publish --customer-id 191";
const LIST: &str = "dead-letters list";

pub fn mistakes() -> Vec<Mistake> {
    let mut all = addresses();
    all.extend(users());
    all.extend(topology());
    all.extend(plans());
    all.extend(trackfinity());
    all
}

fn addresses() -> Vec<Mistake> {
    vec![
        typed("A port on which nothing listens", PUBLISH)
            .with(URL, "amqp://guest:guest@127.0.0.1:NO_PORT/VHOST"),
        typed("A host that does not exist", LIST).with(URL, "amqp://guest:guest@no-such-host.invalid/VHOST"),
        typed("TLS to the plain port", PUBLISH).with(URL, "amqps://guest:guest@HOST:PORT/VHOST"),
        typed("No TLS to the port of TLS", LIST).with(URL, "amqp://guest:guest@127.0.0.1:TLS_PORT/VHOST"),
        typed("A certificate of an unknown issuer", PUBLISH)
            .with(URL, "amqps://guest:guest@127.0.0.1:TLS_PORT/VHOST"),
        typed("An expired certificate", LIST).with(URL, "amqps://guest:guest@127.0.0.1:EXPIRED_PORT/VHOST"),
    ]
}

fn users() -> Vec<Mistake> {
    vec![
        typed("A wrong password", PUBLISH).with(URL, "amqp://guest:wrong@HOST:PORT/VHOST"),
        typed("A wrong password, to see dead letters", LIST).with(URL, "amqp://guest:wrong@HOST:PORT/VHOST"),
        typed("A wrong password of the worker", "run")
            .with(URL, "amqp://guest:wrong@HOST:PORT/VHOST")
            .until("not consuming"),
        typed("A wrong password for other teams' tests", "dev --start-timeout 1s")
            .with(URL, "amqp://guest:wrong@HOST:PORT/VHOST"),
        typed("A virtual host that does not exist", PUBLISH)
            .with(URL, "amqp://guest:guest@HOST:PORT/NO_VHOST"),
        typed("Another user's virtual host", LIST).with(URL, "amqp://STRANGER:secret@HOST:PORT/VHOST"),
        typed("A user without the right to publish", PUBLISH)
            .with(URL, "amqp://POOR:secret@HOST:PORT/VHOST")
            .with(PREFIX, "declared"),
        typed("A user without an operator's rights", LIST)
            .with(URL, "amqp://POOR:secret@HOST:PORT/VHOST")
            .with(PREFIX, "declared"),
        typed("A worker's user without rights", "run")
            .with(URL, "amqp://POOR:secret@HOST:PORT/VHOST")
            .until("not consuming"),
    ]
}

fn topology() -> Vec<Mistake> {
    vec![
        typed("A request before the first worker", PUBLISH),
        typed("Dead letters before the first worker", LIST),
        typed("A replay before the first worker", "dead-letters replay"),
        typed("A misspelt prefix", PUBLISH).with(PREFIX, "declrared"),
        typed("A misspelt prefix of what is looked at", "status").with(PREFIX, "declrared"),
        typed("A worker that declares nothing, before anyone has", "run")
            .with("UNLOCKER__BROKER__DECLARE", "false")
            .until("not consuming"),
        typed("A queue of somebody else in the way", "run").with(PREFIX, "taken").until("not consuming"),
        typed(
            "A wait while no worker runs",
            "publish --customer-id 191 --message-id r-1 --wait --timeout 1s",
        )
        .with(PREFIX, "declared"),
        typed("Health where another program listens", "run").with("UNLOCKER__OPS__LISTEN", "HOST:PORT"),
        typed("The console where another program listens", "console")
            .with("UNLOCKER__CONSOLE__LISTEN", "HOST:PORT"),
        typed("An address of another machine", "run").with("UNLOCKER__OPS__LISTEN", "192.0.2.1:9464"),
        typed("The sandbox where another program listens", "sandbox --listen HOST:PORT"),
    ]
}

fn plans() -> Vec<Mistake> {
    let declared = |what, line| typed(what, line).with(PREFIX, "declared");
    vec![
        declared("A digest that no plan has", "dead-letters replay --confirm 0123456789ab"),
        declared("A replay confirmed as a discard", "dead-letters discard --confirm PLAN"),
        declared("An id that no dead letter has", "dead-letters show r-77"),
    ]
}

fn trackfinity() -> Vec<Mistake> {
    vec![
        typed("A certificate of Trackfinity's that only your own authority signed", "check")
            .with(BASE_URL, "https://127.0.0.1:TLS_PORT"),
        typed("A proxy that is not there", "check")
            .with(BASE_URL, "https://127.0.0.1:TLS_PORT")
            .with("UNLOCKER__TRACKFINITY__PROXY", "http://127.0.0.1:NO_PORT"),
        typed("A variable with a proxy that cannot be used", "run")
            .with(BASE_URL, "https://yourcompany.trackfinity.com")
            .with("NO_PROXY", "")
            .with("ALL_PROXY", "socks5://user:secret@proxy:1080"),
        typed("A wrong key of Trackfinity", "check")
            .with(BASE_URL, "http://UNAUTHORIZED")
            .with(PREFIX, "declared"),
    ]
}
