//! `unlocker check`: one line per check, and a verdict. Writes nothing that stays.

mod args;
mod broker;
mod grant;
mod local;
mod login;
mod probe;
mod report;
mod trackfinity;

use std::path::PathBuf;

pub(super) use self::args::CheckArgs;
use self::{args::Role, report::Report};
use super::failure::Failure;
use crate::{
    broker::rights,
    settings::{BrokerSettings, ConsoleSettings, GatewaySettings, Settings, environment},
};

pub(super) async fn check(files: &[PathBuf], args: CheckArgs) -> Result<(), Failure> {
    let mut report = Report::new(args.role, args.json);
    let checked = match args.role {
        Role::Worker => check_worker(files, &args, &mut report).await,
        Role::Gateway => check_gateway(files, &args, &mut report).await,
        Role::Console => check_console(files, &args, &mut report).await,
    };
    match checked {
        // One document, also of settings that cannot be read.
        Err(Failure::Settings(faults)) if args.json => report.add_setting_faults(&faults)?,
        checked => checked?,
    }
    report.finish()
}

async fn check_worker(files: &[PathBuf], args: &CheckArgs, report: &mut Report) -> Result<(), Failure> {
    let settings = Settings::load(files, environment())?;
    report.settings(settings.describe())?;
    local::check_fips(report)?;
    local::check_listen("ops.listen", settings.ops.listen, report)?;
    let role = rights::Role::Worker { declare: settings.rabbitmq.broker.declare };
    let BrokerSettings { broker, topology_prefix, history, .. } = &settings.rabbitmq;
    broker::check(broker, topology_prefix, history, role, args, report).await?;
    trackfinity::check(&settings.trackfinity, report).await
}

async fn check_gateway(files: &[PathBuf], args: &CheckArgs, report: &mut Report) -> Result<(), Failure> {
    let settings = GatewaySettings::load(files, environment())?;
    report.settings(settings.describe())?;
    local::check_fips(report)?;
    local::check_clients(settings.gateway.clients_dir.as_deref(), report)?;
    local::check_listen("gateway.listen", Some(settings.gateway.listen), report)?;
    local::check_listen("ops.listen", settings.ops.listen, report)?;
    let (broker, prefix, history) = (&settings.broker, &settings.topology_prefix, &settings.history);
    broker::check(broker, prefix, history, rights::Role::Producer, args, report).await
}

async fn check_console(files: &[PathBuf], args: &CheckArgs, report: &mut Report) -> Result<(), Failure> {
    let settings = ConsoleSettings::load(files, environment())?;
    report.settings(settings.describe())?;
    local::check_fips(report)?;
    local::check_audit_log(settings.console.audit_log.as_deref(), report).await?;
    local::check_listen("console.listen", Some(settings.console.listen), report)?;
    local::check_listen("ops.listen", settings.ops.listen, report)?;
    let BrokerSettings { broker, topology_prefix: prefix, history, .. } = &settings.rabbitmq;
    broker::check(broker, prefix, history, rights::Role::Operator, args, report).await
}
