//! Topic permissions, which restrict rights on the exchange of the outcomes to some routing keys.

use super::*;

/// `check` of a role, by a user with these topic permissions.
async fn check_role(ctx: &Context, user: &User<'_>, role: &str) -> Process {
    if role == "worker" {
        let trackfinity = Trackfinity::start(|_| Answer::json(200, "true"));
        return check(ctx, &user.url(), &trackfinity, false).await;
    }
    let check = ctx.start(&bare(&user.url(), &["check", "--role", role]));
    check.wait_exit(SOON).await;
    check
}

/// Grants what `check` says: write and read of `rabbitmqctl set_topic_permissions`.
async fn take_advice(ctx: &Context, user: &User<'_>, check: &Process) {
    let lines = check.stdout();
    let command = lines.iter().find_map(|line| line.split_once("rabbitmqctl set_topic_permissions "));
    let (_, command) = command.unwrap_or_else(|| panic!("no advice in {lines:#?}"));
    let words: Vec<_> = command.split(' ').map(|word| word.trim_matches('\'')).collect();
    let ["-p", vhost, name, exchange, write, read] = words[..] else { panic!("{command}") };
    assert_eq!((vhost, name, exchange), (ctx.vhost().name(), user.name.as_str(), RESULTS));
    ctx.vhost().management().set_topic_permissions(name, exchange, write, read).await;
}

#[test]
fn a_routing_key_that_topic_permissions_forbid_is_named_and_how_to_grant_it() {
    kit::run_within(SOON * 4, async |ctx| {
        let management = ctx.vhost().management();
        apply_topology(management, ctx.vhost().name()).await;
        let amqp = ctx.amqp().await;
        let outcomes = amqp.consume_into(RESULTS, "#").await;
        // An impersonator may publish in any other user's name.
        for (role, tag, write, read, missing) in [
            ("worker", "", r"^unlock\.(?!unlocked)", ".*", vec!["write unlock.unlocked"]),
            ("worker", "impersonator", r"^unlock\.(?!unlocked)", ".*", vec!["write unlock.unlocked"]),
            ("console", "", r"^unlock\.unlocked$", "^$", vec!["read unlock.#", "write unlock.discarded"]),
        ] {
            let user = User::create(&ctx, role).await;
            management.create_user(&user.name, "p", tag).await;
            user.grant(&granted(if role == "console" { "operator" } else { role })).await;
            let ready = check_role(&ctx, &user, role).await;
            assert!(failures(&ready).is_empty(), "{role}: {:#?}", ready.stdout());

            management.set_topic_permissions(&user.name, RESULTS, write, read).await;
            let check = check_role(&ctx, &user, role).await;
            let found = failures(&check);
            assert_eq!(found.len(), missing.len(), "{role} {tag}: {found:#?}");
            for (said, right) in found.iter().zip(missing) {
                let (permission, key) = right.split_once(' ').expect("two words");
                let wanted =
                    format!("- {permission} on exchange {RESULTS} with the routing key {key} (a topic");
                assert!(said.contains(&wanted), "{role} {tag}: {found:#?}");
            }
            take_advice(&ctx, &user, &check).await;
            let ready = check_role(&ctx, &user, role).await;
            assert!(failures(&ready).is_empty(), "{role} {tag}: {:#?}", ready.stdout());

            if role == "worker" {
                // An exchange that is forbidden altogether is named without its keys.
                let [configure, write, read] = granted(role);
                user.grant(&[configure, write.replace(r"trackfinity\.unlock\.results", "none"), read]).await;
                names_alone(&check_role(&ctx, &user, role).await, "write on exchange", RESULTS);
            }
            user.delete().await;
        }
        amqp.publish(RESULTS, "last", id("last"), b"").await;
        let seen = outcomes.wait_count(1, SOON).await;
        assert_eq!(seen[0].routing_key, "last", "a check has published an outcome");
    });
}
