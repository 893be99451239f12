//! Reads what processes used, and the kernel for them, from `/proc`.

use std::fs::read_to_string;
use std::ops::{Add, Sub};
use std::time::Duration;

use anyhow::Context as _;

/// What processes have used so far.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Usage {
    pub(crate) user: Duration,
    pub(crate) system: Duration,
    /// Resident memory, in bytes.
    pub(crate) resident: u64,
}

impl Usage {
    /// User and system time.
    pub(crate) fn cpu(&self) -> Duration {
        self.user + self.system
    }
}

impl Add for Usage {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            user: self.user + other.user,
            system: self.system + other.system,
            resident: self.resident + other.resident,
        }
    }
}

impl Sub for Usage {
    type Output = Self;

    fn sub(self, earlier: Self) -> Self {
        Self {
            user: self.user.saturating_sub(earlier.user),
            system: self.system.saturating_sub(earlier.system),
            resident: self.resident.saturating_sub(earlier.resident),
        }
    }
}

/// Reads the usage of processes, summed. The kernel counts CPU in ticks of 10 ms.
pub(crate) fn usage(pids: &[u32]) -> anyhow::Result<Usage> {
    (pids.iter()).try_fold(Usage::default(), |sum, pid| Ok(sum + usage_of(*pid)?))
}

fn usage_of(pid: u32) -> anyhow::Result<Usage> {
    const TICK: Duration = Duration::from_millis(10);
    let stat = read_to_string(format!("/proc/{pid}/stat"))?;
    // The name, in brackets, may hold spaces.
    let (_, after) = stat.rsplit_once(") ").context("stat has a name")?;
    let fields: Vec<&str> = after.split(' ').collect();
    let ticks =
        |i: usize| -> anyhow::Result<u32> { Ok(fields.get(i).context("stat is short")?.parse()?) };
    let status = read_to_string(format!("/proc/{pid}/status"))?;
    Ok(Usage {
        user: TICK * ticks(11)?,
        system: TICK * ticks(12)?,
        resident: kib(&status, "VmRSS:").context("VmRSS")? * 1024,
    })
}

/// Bytes that the kernel holds for all sockets of the machine, and in its other small objects: both ends
/// of connections over loopback, and what else runs.
pub(crate) fn kernel_memory() -> anyhow::Result<u64> {
    const PAGE: u64 = 4096;
    let slab = kib(&read_to_string("/proc/meminfo")?, "Slab:").context("Slab")? * 1024;
    let sockets = read_to_string("/proc/net/sockstat")?;
    let tcp = sockets.lines().find(|line| line.starts_with("TCP:"));
    let pages = tcp.and_then(|line| line.split_once(" mem ")?.1.trim().parse::<u64>().ok());
    Ok(slab + pages.unwrap_or_default() * PAGE)
}

/// The processor, the kernel and how many processors there are.
pub(crate) fn machine() -> String {
    let cpus = read_to_string("/proc/cpuinfo").unwrap_or_default();
    let named = |line: &&str| line.starts_with("model name");
    let model = cpus.lines().find(named).and_then(|l| l.split_once(": "));
    let kernel = read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let count = cpus.lines().filter(named).count();
    let model = model.map_or("an unknown processor", |(_, model)| model.trim());
    format!("{count} cores of {model}, Linux {}", kernel.trim())
}

/// Raises this process' limit of open descriptors as far as it may be, and answers it.
pub(crate) fn raise_descriptors() -> u64 {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let wanted = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    match setrlimit(Resource::Nofile, wanted) {
        Ok(()) => limit.maximum.unwrap_or(u64::MAX),
        Err(_) => limit.current.unwrap_or(u64::MAX),
    }
}

fn kib(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.trim().trim_end_matches(" kB").parse().ok()
}
