//! Reads what a process used, from `/proc`.

use std::time::Duration;

use anyhow::Context;

/// What a process has used so far.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Usage {
    /// User and system time.
    pub cpu: Duration,
    /// Resident memory, in bytes.
    pub resident: u64,
}

/// Reads a process's usage. The kernel counts CPU in ticks of 10 ms.
pub(crate) fn usage(pid: u32) -> anyhow::Result<Usage> {
    const TICK: Duration = Duration::from_millis(10);
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The name, in brackets, may hold spaces.
    let (_, after) = stat.rsplit_once(") ").context("stat has a name")?;
    let fields: Vec<&str> = after.split(' ').collect();
    let ticks =
        |i: usize| -> anyhow::Result<u32> { Ok(fields.get(i).context("stat is short")?.parse()?) };
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let resident = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .context("VmRSS")?;
    let kib: u64 = resident.trim().trim_end_matches(" kB").parse()?;
    Ok(Usage {
        cpu: TICK * (ticks(11)? + ticks(12)?),
        resident: kib * 1024,
    })
}
