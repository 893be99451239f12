//! What it costs to say what became of notifications.

use crate::RunArgs;
use crate::measure::{Measured, PAYLOAD, Plan};
use crate::publish::Whom;
use crate::report::Report;
use crate::scenarios::Size;

/// Storms of other scenarios are over too soon to tell some percent apart.
const LONGER: u64 = 5;

pub(super) async fn run(args: &RunArgs, size: &Size, report: &mut Report) -> anyhow::Result<()> {
    for receipts in ["none", "summary", "full"] {
        let settings = [("SUMU__PUSHER__RECEIPTS__DEFAULT", receipts)];
        let mut measured = Measured::start(args, args.dev(), &settings, report).await?;
        let load = measured.open(size.sockets).await?;
        let payloads = size.broadcasts * LONGER;
        let plan = Plan {
            scenario: &format!("broadcast storm, receipts {receipts}"),
            payloads,
            deliveries: payloads * size.sockets as u64,
            bytes: PAYLOAD,
        };
        measured.storm(&load, plan, |_| Whom::All).await?;
        drop(load);
        measured.finish().await;
    }
    Ok(())
}
