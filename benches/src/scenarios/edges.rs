//! Roles as processes of their own, with a CQL server: one edge and three, and both ways to find a user.

use crate::RunArgs;
use crate::measure::Measured;
use crate::report::Report;
use crate::scenarios::{Size, targeted};
use crate::target::Setup;

/// Look-ups that cost as much as asking an edge: every batch is looked up, or none is.
const LOOK_UPS: &str = "PUSHER__PLAN__LOOK_UPS_PER_EDGE";

pub(super) async fn run(args: &RunArgs, size: &Size, report: &mut Report) -> anyhow::Result<()> {
    let ways = [
        (1, "1 edge", None),
        (3, "3 edges", None),
        (3, "3 edges, store", Some((LOOK_UPS, "1000000"))),
        (3, "3 edges, asked", Some((LOOK_UPS, "0"))),
    ];
    for (edges, name, setting) in ways {
        let settings = setting.as_slice();
        let mut measured = Measured::start(args, Setup::Edges(edges), settings, report).await?;
        let load = measured.open(size.sockets).await?;
        let storm = format!("{name}, targeted, storm");
        targeted::storm(&mut measured, &load, size, &storm).await?;
        let steady = format!("{name}, targeted, 2,000/s");
        targeted::steady(&mut measured, &load, size, &steady, 2_000.0).await?;
        if settings.is_empty() {
            let steady = format!("{name}, targeted, 5,000/s");
            targeted::steady(&mut measured, &load, size, &steady, 5_000.0).await?;
        }
        drop(load);
        measured.finish().await;
    }
    Ok(())
}
