//! Notifications for one user each, from Kafka to the socket.

use crate::RunArgs;
use crate::load::Load;
use crate::measure::{Measured, PAYLOAD, Plan, spread};
use crate::report::Report;
use crate::scenarios::{Size, maximum};
use crate::target::Setup;

/// Devices of users, in turn: 1.8 on average.
const DEVICES: [usize; 5] = [1, 1, 2, 2, 3];
const STEADY: [(&str, u64); 2] = [("targeted, 2,000/s", 2_000), ("targeted, 5,000/s", 5_000)];
/// Parts of the highest steady rate.
const PARTS: [(&str, f64); 3] = [
    ("targeted, 10 % of sumu's highest steady rate", 0.1),
    ("targeted, 50 % of sumu's highest steady rate", 0.5),
    ("targeted, 80 % of sumu's highest steady rate", 0.8),
];

pub(super) async fn run(args: &RunArgs, size: &Size, report: &mut Report) -> anyhow::Result<()> {
    // The floor gets the rates that sumu bears, so that the two columns are of the same load.
    let mut most = 0.0;
    for setup in [args.dev(), Setup::Floor] {
        let mut measured = Measured::start(args, setup, &[], report).await?;
        let mut load = measured.open(size.sockets).await?;
        storm(&mut measured, &load, size, "targeted, storm").await?;
        for (scenario, rate) in STEADY {
            steady(&mut measured, &load, size, scenario, rate as f64).await?;
        }
        if setup != Setup::Floor {
            most = maximum::find(&mut measured, &load, size).await?;
            measured.note("targeted, highest steady rate", "deliveries/s", most);
        }
        for (scenario, part) in PARTS {
            steady(&mut measured, &load, size, scenario, most * part).await?;
        }
        if setup != Setup::Floor {
            devices(&mut measured, &mut load, size).await?;
        }
        drop(load);
        measured.finish().await;
    }
    Ok(())
}

pub(super) async fn storm(
    measured: &mut Measured<'_>,
    load: &Load,
    size: &Size,
    scenario: &str,
) -> anyhow::Result<()> {
    let plan = Plan {
        scenario,
        payloads: size.targeted,
        deliveries: size.targeted,
        bytes: PAYLOAD,
    };
    measured.storm(load, plan, spread(size.sockets)).await
}

pub(super) async fn steady(
    measured: &mut Measured<'_>,
    load: &Load,
    size: &Size,
    scenario: &str,
    per_second: f64,
) -> anyhow::Result<()> {
    let payloads = payloads(size, per_second);
    let plan = Plan {
        scenario,
        payloads,
        deliveries: payloads,
        bytes: PAYLOAD,
    };
    let whom = spread(size.sockets);
    measured.steady(load, plan, per_second, whom).await?;
    Ok(())
}

pub(super) fn payloads(size: &Size, per_second: f64) -> u64 {
    within(size.steady, per_second)
}

/// How many are due in that time.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "positive, and far below 2^53"
)]
pub(crate) fn within(time: std::time::Duration, per_second: f64) -> u64 {
    (per_second * time.as_secs_f64()) as u64
}

/// The same users with one to three devices each: as many of them as the edge has descriptors for.
async fn devices(measured: &mut Measured<'_>, load: &mut Load, size: &Size) -> anyhow::Result<()> {
    let Some(users) = users(size) else {
        eprintln!("the descriptors do not bear two devices and three");
        return Ok(());
    };
    let more = (0..users).flat_map(|user| (1..devices_of(user)).map(move |_| user));
    let paths = more.map(crate::target::path_of).collect();
    let sockets = measured.target.sockets.clone();
    load.add(&sockets, paths, true).await?;
    tokio::time::sleep(std::time::Duration::from_secs(2)).await;

    let deliveries = |payloads: u64| {
        let users_of = (0..payloads).map(|i| match spread(users)(i) {
            crate::publish::Whom::One(user) => devices_of(user) as u64,
            crate::publish::Whom::All => 0,
        });
        users_of.sum()
    };
    let plan = |scenario, payloads| Plan {
        scenario,
        payloads,
        deliveries: deliveries(payloads),
        bytes: PAYLOAD,
    };
    let named = |load: &str| format!("targeted, {users} users of 1–3 devices, {load}");
    let (stormy, even) = (named("storm"), named("5,000/s"));
    let storm = plan(&stormy, size.targeted / 2);
    measured.storm(load, storm, spread(users)).await?;
    let steady = plan(&even, payloads(size, 5_000.0));
    measured
        .steady(load, steady, 5_000.0, spread(users))
        .await?;
    Ok(())
}

fn devices_of(user: usize) -> usize {
    DEVICES.get(user % DEVICES.len()).copied().unwrap_or(1)
}

/// How many users may have their further devices, beside the first ones that are open.
fn users(size: &Size) -> Option<usize> {
    let (all, of) = (DEVICES.iter().sum::<usize>(), DEVICES.len());
    let left = size.most.saturating_sub(size.sockets);
    // Whole rounds, so that the average is what it is said to be.
    let users = size.sockets.min(left * of / (all - of)) / of * of;
    (users > 0).then_some(users)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn no_more_devices_are_opened_than_the_edge_admits() {
        for (sockets, most, expected) in [
            (10_000, 60_000, Some(10_000)),
            (10_000, 16_504, Some(8_130)),
            (2_000, 16_504, Some(2_000)),
            (10_000, 10_003, None),
        ] {
            let size = Size {
                sockets,
                steady: Duration::ZERO,
                idle: Duration::ZERO,
                targeted: 0,
                broadcasts: 0,
                most,
            };
            let users = users(&size);
            assert_eq!(users, expected);
            let more: usize = (0..users.unwrap_or(0))
                .map(|user| devices_of(user) - 1)
                .sum();
            assert!(sockets + more <= most, "{users:?}");
        }
    }
}
