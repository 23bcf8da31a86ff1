//! The mistakes, in groups.

mod broker;
mod command_line;
mod settings;

use super::mistake::Mistake;

/// Each group with its title.
pub fn all() -> Vec<(&'static str, Vec<Mistake>)> {
    vec![
        ("The command line", command_line::mistakes()),
        ("The settings", settings::mistakes()),
        ("RabbitMQ and Trackfinity", broker::mistakes()),
    ]
}
