//! Says whom a client may watch.

use std::collections::BTreeSet;

use schemas::UserId;
use serde_json::{Map, Value};

use crate::config::{Allow, Watch};

/// Whom a client may watch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Permit {
    /// Nobody.
    #[default]
    Nobody,
    /// Anybody.
    Anybody,
    /// These users.
    These(Box<BTreeSet<UserId>>),
}

impl Permit {
    /// What the configuration and a token's claims give: the claim is `true`, or lists user ids.
    #[must_use]
    pub fn of(config: &Watch, claims: &Map<String, Value>) -> Self {
        match config.allow {
            Allow::Nobody => Self::Nobody,
            Allow::Anybody => Self::Anybody,
            Allow::Claim => match claims.get(&config.claim) {
                Some(Value::Bool(true)) => Self::Anybody,
                Some(Value::Array(users)) => Self::These(Box::new(
                    users
                        .iter()
                        .filter_map(|user| user.as_str()?.parse().ok())
                        .collect(),
                )),
                _ => Self::Nobody,
            },
        }
    }

    /// Whether that user may be watched.
    #[must_use]
    pub fn covers(&self, user: &UserId) -> bool {
        match self {
            Self::Nobody => false,
            Self::Anybody => true,
            Self::These(users) => users.contains(user),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_claim_permits_everybody_or_those_it_lists() {
        let ann: UserId = "ann".parse().unwrap();
        for (allow, claim, may_ann, may_bob) in [
            (Allow::Nobody, json!(true), false, false),
            (Allow::Anybody, json!(null), true, true),
            (Allow::Claim, json!(true), true, true),
            (Allow::Claim, json!(["ann", 7, ""]), true, false),
            (Allow::Claim, json!(["*"]), false, false),
            (Allow::Claim, json!("ann"), false, false),
            (Allow::Claim, json!(1), false, false),
            (Allow::Claim, json!(false), false, false),
        ] {
            let config = Watch {
                allow,
                ..Watch::default()
            };
            let claims = json!({ config.claim.as_str(): claim });
            let permit = Permit::of(&config, claims.as_object().unwrap());
            let may = (permit.covers(&ann), permit.covers(&"bob".parse().unwrap()));
            assert_eq!(may, (may_ann, may_bob), "{allow:?} {claim}");
        }
        let claimed = Watch {
            allow: Allow::Claim,
            ..Watch::default()
        };
        assert_eq!(Permit::of(&claimed, &Map::new()), Permit::Nobody);
    }
}
