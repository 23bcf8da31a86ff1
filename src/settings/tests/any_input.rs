use proptest::prelude::*;

use super::*;

fn any_toml() -> impl Strategy<Value = String> {
    let name = prop_oneof![prop::sample::select(all_keys()), "[a-z\"\\[\\].0-9]{1,12}",];
    let value = prop_oneof![
        "[0-9.e+-]{1,24}",
        "\"[ -!#-\\[\\]-~]{0,30}\"",
        Just("[]".to_owned()),
        Just("{ a = [1, {}] }".to_owned()),
        Just("true".to_owned()),
        "\\PC{0,10}",
    ];
    prop::collection::vec((name, value), 0..6)
        .prop_map(|pairs| pairs.into_iter().map(|(name, value)| format!("{name} = {value}\n")).collect())
}

fn any_variable() -> impl Strategy<Value = (String, String)> {
    let name = prop_oneof![
        // Without secret files: a path could be that of a device.
        prop::sample::select(all_keys()).prop_map(|key| keys::variable(&key)),
        "UNLOCKER__\\PC{0,20}",
        "UNLOCKER__[A-Z]{1,5}\\[-?[0-9]{1,20}\\]",
    ];
    let value = prop_oneof![
        "\\PC{0,40}",
        "amqps?://[a-z0-9:@/?#%\\[\\],.]{0,30}",
        "[0-9.e+-]{1,30}(ms|s|y)?",
        ".{0,5}"
    ];
    (name, value)
}

proptest! {
    #[test]
    fn no_file_and_no_environment_panics(text in any_toml(), pairs in prop::collection::vec(any_variable(), 0..6)) {
        let (_folder, files) = toml(&text);
        match load(&files, &pairs.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect::<Vec<_>>()) {
            Ok(settings) => prop_assert!(!settings.rabbitmq.broker.uris().unwrap().is_empty()),
            Err(faults) => prop_assert!(faults.iter().count() > 0 && !faults.to_string().contains("hunter2")),
        }
    }

    #[test]
    fn no_broker_url_panics_and_no_password_is_shown(text in "(amqps?://)?[a-z:/@?#%,\\[\\]0-9.]{0,20}qqqqqq[a-z:/@?#%,]{0,8}(@[a-z]+)?") {
        match BrokerUrls::parse(&text) {
            Ok(uris) => {
                let masked = BrokerUrls::masked(&text);
                for uri in uris {
                    let password = uri.authority.userinfo.password;
                    prop_assert!(!password.contains("qqqqqq") || !masked.contains("qqqqqq") || uri.authority.host.contains("qqqqqq")
                        || uri.authority.userinfo.username.contains("qqqqqq"), "{}", masked);
                }
            }
            Err(error) => {
                let shown = format!("{error} {error:?}");
                prop_assert!(!shown.contains("qqqqqq"));
            }
        }
    }
}
