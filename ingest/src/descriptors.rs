//! Shares the descriptors that a process may open: first come its own files, then requests, then sockets.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Descriptors for all else: the log, the store, files.
const SPARE: usize = 1024;
/// The part of the rest that HTTP has where not all is to be had. What comes beyond it waits to be accepted,
/// and an opening takes milliseconds: a few hundred at a time are thousands in a second.
const HTTP_PART: usize = 8;

/// How many connections of each kind may be open at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Shares {
    /// Sockets.
    pub(crate) sockets: usize,
    /// HTTP's at the public listener.
    pub(crate) public: usize,
    /// HTTP's at the admin listener.
    pub(crate) admin: usize,
}

impl Shares {
    const fn all(self) -> usize {
        (self.sockets)
            .saturating_add(self.public)
            .saturating_add(self.admin)
    }

    /// As many as `allowed` descriptors bear. Where that is not all, a quarter of them, or what is
    /// spared anyway if that is less, is the process' own, and of the rest HTTP has an eighth at most.
    pub(crate) fn within(self, allowed: Option<u64>) -> Self {
        let allowed = allowed.map_or(usize::MAX, |all| usize::try_from(all).unwrap_or(usize::MAX));
        if self.all().saturating_add(SPARE) <= allowed {
            return self;
        }
        let rest = allowed - SPARE.min(allowed / 4);
        let http = rest / HTTP_PART;
        let admin = if self.admin == 0 {
            0
        } else {
            self.admin.min(http / 2).max(1)
        };
        let public = self.public.min(http - admin.min(http)).max(1);
        Self {
            sockets: self.sockets.min(rest.saturating_sub(public + admin)),
            public,
            admin,
        }
    }
}

/// Raises the process' soft limit of open files to what those connections need, as far as the hard one
/// allows; answers how many there may be. At the limit no connection would be accepted any more, not even
/// a refused one, and no file of the process' own be opened.
pub(crate) fn allow(wanted: Shares) -> Shares {
    let needed = wanted.all().saturating_add(SPARE);
    let needed = u64::try_from(needed).unwrap_or(u64::MAX);
    let limit = getrlimit(Resource::Nofile);
    let mut allowed = raised(limit.current, limit.maximum, needed);
    if allowed != limit.current {
        let raised = Rlimit {
            current: allowed,
            ..limit
        };
        if let Err(error) = setrlimit(Resource::Nofile, raised) {
            tracing::warn!(%error, "the limit of open files stays as it was");
            allowed = limit.current;
        }
    }
    let shares = wanted.within(allowed);
    if shares != wanted {
        tracing::warn!(
            allowed,
            needed,
            sockets = shares.sockets,
            "too few open files are allowed for limits.max_connections: fewer sockets are admitted. \
             Raise the hard limit"
        );
    }
    shares
}

/// The soft limit to ask for; no number is no limit.
fn raised(soft: Option<u64>, hard: Option<u64>, needed: u64) -> Option<u64> {
    let reachable = hard.map_or(needed, |hard| needed.min(hard));
    soft.map(|soft| soft.max(reachable))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_of_open_files_only_grows_and_not_over_the_hard_one() {
        assert_eq!(raised(Some(1024), Some(4096), 2000), Some(2000));
        assert_eq!(raised(Some(1024), None, 9000), Some(9000));
        assert_eq!(raised(Some(1024), Some(4096), 9000), Some(4096));
        assert_eq!(raised(Some(4096), Some(4096), 2000), Some(4096));
        assert_eq!(raised(None, None, 2000), None);
    }

    #[test]
    fn connections_leave_descriptors_to_the_process() {
        for admin in [0, 4128] {
            let wanted = Shares {
                sockets: 20_000,
                public: 4096,
                admin,
            };
            assert_eq!(wanted.within(None), wanted);
            let enough = u64::try_from(wanted.all() + SPARE).unwrap();
            assert_eq!(wanted.within(Some(enough)), wanted);
            for allowed in [16, 256, 1024, 4096, 10_000, enough - 1] {
                let shares = wanted.within(Some(allowed));
                let allowed = usize::try_from(allowed).unwrap();
                assert!(
                    shares.all() <= allowed - SPARE.min(allowed / 4),
                    "{shares:?}"
                );
                assert!(shares.sockets >= allowed * 5 / 8, "{shares:?} of {allowed}");
                assert!(shares.public > 0 && (shares.admin > 0) == (admin > 0));
            }
        }
    }
}
