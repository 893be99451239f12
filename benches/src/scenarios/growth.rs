//! The same load on more and more connections: nothing may cost more each.

use crate::RunArgs;
use crate::measure::{Measured, PAYLOAD, Plan, spread};
use crate::publish::Whom;
use crate::report::Report;
use crate::scenarios::{Size, targeted};

/// Deliveries of broadcasts per second, whatever the number of sockets.
const DELIVERIES: f64 = 20_000.0;

pub(super) async fn run(args: &RunArgs, size: &Size, report: &mut Report) -> anyhow::Result<()> {
    for (name, sockets) in [("1,000", 1_000), ("5,000", 5_000), ("the most", size.most)] {
        let scenario = format!("growth, {name}");
        let size = Size { sockets, ..*size };
        let mut measured = Measured::start(args, args.dev(), &[], report).await?;
        measured.note(&scenario, "connections", sockets as f64);
        let paths = measured.target.paths(0..sockets);
        let load = measured.connect(&scenario, paths).await?;

        let per_second = DELIVERIES / sockets as f64;
        let payloads = targeted::payloads(&size, per_second).max(1);
        let plan = Plan {
            scenario: &format!("{scenario}, broadcast"),
            payloads,
            deliveries: payloads * sockets as u64,
            bytes: PAYLOAD,
        };
        measured
            .steady(&load, plan, per_second, |_| Whom::All)
            .await?;
        let payloads = targeted::payloads(&size, 5_000.0);
        let plan = Plan {
            scenario: &format!("{scenario}, targeted"),
            payloads,
            deliveries: payloads,
            bytes: PAYLOAD,
        };
        measured
            .steady(&load, plan, 5_000.0, spread(sockets))
            .await?;
        drop(load);
        measured.finish().await;
    }
    Ok(())
}
