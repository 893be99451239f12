//! Reads docker-compose.yml: the parts of each service that its processes and their order come from.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use serde::Deserialize;

/// What `.env` would hold.
pub(crate) type Variables = BTreeMap<String, String>;

#[derive(Clone, Debug, Deserialize)]
pub(crate) struct File {
    pub(crate) services: BTreeMap<String, Service>,
}

#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Service {
    pub(crate) image: String,
    pub(crate) build: Option<String>,
    #[serde(default)]
    pub(crate) command: Vec<String>,
    #[serde(default)]
    pub(crate) environment: BTreeMap<String, String>,
    #[serde(default)]
    pub(crate) depends_on: BTreeMap<String, Dependency>,
    pub(crate) healthcheck: Option<HealthCheck>,
    #[serde(default)]
    pub(crate) volumes: Vec<String>,
    #[serde(default)]
    pub(crate) profiles: Vec<String>,
    pub(crate) restart: Option<String>,
    pub(crate) mem_limit: Option<String>,
    #[serde(default)]
    pub(crate) security_opt: Vec<String>,
}

#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Dependency {
    pub(crate) condition: Condition,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(clippy::enum_variant_names, reason = "the names that compose has")]
pub(crate) enum Condition {
    ServiceStarted,
    ServiceHealthy,
    ServiceCompletedSuccessfully,
}

#[derive(Clone, Debug, Deserialize)]
pub(crate) struct HealthCheck {
    #[serde(default)]
    pub(crate) test: Vec<String>,
    #[serde(default)]
    pub(crate) disable: bool,
}

/// The folder of the project.
pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// The file's text.
pub(crate) fn text() -> String {
    std::fs::read_to_string(root().join("docker-compose.yml")).unwrap()
}

impl File {
    /// The file with these variables put in.
    pub(crate) fn read(variables: &Variables) -> Result<Self, String> {
        let mut file: Self = serde_saphyr::from_str(&text()).map_err(|e| e.to_string())?;
        for (name, service) in &mut file.services {
            service
                .interpolate(variables)
                .map_err(|fault| format!("{name}: {fault}"))?;
        }
        Ok(file)
    }

    /// The services that run sumu's own image.
    pub(crate) fn sumu(&self) -> impl Iterator<Item = (&String, &Service)> {
        let own = |service: &Service| service.build.is_some();
        self.services
            .iter()
            .filter(move |(_, service)| own(service))
    }
}

impl Service {
    fn interpolate(&mut self, variables: &Variables) -> Result<(), String> {
        let test = self.healthcheck.iter_mut().flat_map(|h| &mut h.test);
        let texts = [&mut self.image]
            .into_iter()
            .chain(&mut self.command)
            .chain(self.environment.values_mut())
            .chain(&mut self.volumes)
            .chain(test);
        for text in texts {
            *text = interpolate(text, variables)?;
        }
        Ok(())
    }

    /// Files of this machine by the path that they are mounted at. Volumes with a name are none.
    pub(crate) fn mounts(&self) -> impl Iterator<Item = (&str, PathBuf)> {
        self.volumes.iter().filter_map(|volume| {
            let (here, there) = volume.split_once(':').unwrap();
            let there = there.trim_end_matches(":ro");
            here.contains('/').then(|| (there, root().join(here)))
        })
    }
}

/// Puts variables into a text, in the forms that the file uses: `$$`, `${NAME}`, `${NAME:-default}`,
/// `${NAME:?what is missing}`. Any other is a fault.
pub(crate) fn interpolate(text: &str, variables: &Variables) -> Result<String, String> {
    let mut done = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('$') {
        done.push_str(before);
        if let Some(after) = after.strip_prefix('$') {
            done.push('$');
            rest = after;
            continue;
        }
        let inner = after.strip_prefix('{').and_then(|a| a.split_once('}'));
        let (form, after) = inner.ok_or_else(|| format!("{text}: a form that is not known"))?;
        done.push_str(&value(form, variables)?);
        rest = after;
    }
    done.push_str(rest);
    Ok(done)
}

fn value(form: &str, variables: &Variables) -> Result<String, String> {
    let end = form
        .find(|c: char| !c.is_ascii_alphanumeric() && c != '_')
        .unwrap_or(form.len());
    let (name, operator) = form.split_at(end);
    let set = variables.get(name).filter(|value| !value.is_empty());
    match (set, operator.get(..2)) {
        (Some(value), None | Some(":-" | ":?")) => Ok(value.clone()),
        (None, Some(":-")) => Ok(operator.split_at(2).1.to_owned()),
        (None, Some(":?")) => Err(operator.split_at(2).1.to_owned()),
        (None, None) => Err(format!("{name} is not set")),
        _ => Err(format!("${{{form}}}: a form that is not known")),
    }
}

/// The names of the variables in a text, and of those the required ones.
pub(crate) fn names(text: &str) -> (BTreeSet<&str>, BTreeSet<&str>) {
    let uses: Vec<&str> = text
        .split("${")
        .skip(1)
        .filter_map(|rest| rest.split('}').next())
        .collect();
    let all = uses.iter().filter_map(|form| form.split(':').next());
    let required = uses.iter().filter_map(|form| form.split_once(":?"));
    (all.collect(), required.map(|(name, _)| name).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_are_put_in_as_compose_does() {
        let variables =
            Variables::from([("A".into(), "1".into()), ("EMPTY".into(), String::new())]);
        let put = |text| interpolate(text, &variables);
        assert_eq!(put("a$$b ${A}:${B:-2} ${A:-3}").unwrap(), "a$b 1:2 1");
        assert_eq!(put("${EMPTY:-4}${C:-}").unwrap(), "4");
        assert_eq!(put("x${EMPTY:?set it}").unwrap_err(), "set it");
        for unknown in ["$A", "${A-x}", "${A:+x}", "${A", "${A?x}", "${NOWHERE}"] {
            assert!(put(unknown).is_err(), "{unknown}");
        }
        let (all, required) = names("${A} ${B:-2} ${C:?set}");
        assert_eq!(all, BTreeSet::from(["A", "B", "C"]));
        assert_eq!(required, BTreeSet::from(["C"]));
    }
}
