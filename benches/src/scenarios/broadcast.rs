//! One notification for everybody.

use crate::RunArgs;
use crate::measure::{Measured, PAYLOAD, Plan};
use crate::publish::Whom;
use crate::report::Report;
use crate::scenarios::Size;
use crate::target::Setup;

const PER_SECOND: u64 = 2;

pub(super) async fn run(args: &RunArgs, size: &Size, report: &mut Report) -> anyhow::Result<()> {
    for setup in [Setup::Floor, args.dev()] {
        let mut measured = Measured::start(args, setup, &[], report).await?;
        let load = measured.open(size.sockets).await?;
        let plan = |scenario, payloads| Plan {
            scenario,
            payloads,
            deliveries: payloads * size.sockets as u64,
            bytes: PAYLOAD,
        };
        let storm = plan("broadcast, storm", size.broadcasts);
        measured.storm(&load, storm, |_| Whom::All).await?;
        let steady = plan("broadcast, 2/s", PER_SECOND * size.steady.as_secs());
        measured
            .steady(&load, steady, PER_SECOND as f64, |_| Whom::All)
            .await?;
        drop(load);
        measured.finish().await;
    }
    Ok(())
}
