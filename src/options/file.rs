//! The configuration file as flags.

use anyhow::{Context, Result, bail};
use clap::{ArgAction, CommandFactory};
use serde_json::Value;

use super::Cli;

/// `listen: 0.0.0.0:6443` becomes `--listen=0.0.0.0:6443`; lists are joined by commas, or become a flag an item where commas mean nothing.
pub(super) fn flags_of_file(text: &str) -> Result<Vec<String>> {
    let file: Value = serde_saphyr::from_str(text).context("is not valid YAML")?;
    let settings = match file {
        Value::Null => return Ok(Vec::new()),
        Value::Object(settings) => settings,
        _ => bail!("must be a map of settings, such as `listen: 127.0.0.1:6443`"),
    };
    let cli = Cli::command();
    let server = cli.find_subcommand("server").context("no server command")?;
    let known: Vec<(&str, &clap::Arg)> = server.get_arguments().filter_map(|flag| Some((flag.get_long()?, flag))).collect();
    let known: Vec<(&str, &clap::Arg)> = known.into_iter().filter(|(name, _)| !["config", "help"].contains(name)).collect();
    let mut flags = Vec::new();
    for (key, value) in &settings {
        let Some((_, flag)) = known.iter().find(|(name, _)| name == key) else {
            let names: Vec<&str> = known.iter().map(|(name, _)| *name).collect();
            bail!("unknown setting `{key}`; did you mean `{}`? Known: {}", nearest(key, &names), names.join(", "));
        };
        match value {
            Value::Array(_) if !matches!(flag.get_action(), ArgAction::Append) => bail!("setting `{key}` takes one value, not a list"),
            Value::Array(items) if flag.get_value_delimiter().is_none() => {
                for item in items {
                    flags.push(format!("--{key}={}", plain(key, item)?));
                }
            }
            value => flags.push(format!("--{key}={}", plain(key, value)?)),
        }
    }
    Ok(flags)
}

/// A setting's value as the flag takes it.
fn plain(key: &str, value: &Value) -> Result<String> {
    Ok(match value {
        Value::String(text) => text.clone(),
        Value::Number(number) => number.to_string(),
        Value::Bool(true) => "on".into(),
        Value::Bool(false) => "off".into(),
        Value::Array(items) => items.iter().map(|item| plain(key, item)).collect::<Result<Vec<_>>>()?.join(","),
        Value::Null | Value::Object(_) => bail!("setting `{key}` must be a text, a number, on/off or a list of texts"),
    })
}

/// The known name that takes the fewest edits.
pub(crate) fn nearest<'a>(wrong: &str, known: &[&'a str]) -> &'a str {
    known.iter().copied().min_by_key(|name| edits(wrong, name)).unwrap_or_default()
}

/// Levenshtein distance.
fn edits(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.bytes().enumerate() {
            let substituted = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_setting_of_the_file_becomes_the_flag_of_the_same_name() {
        let flags = flags_of_file("listen: 127.0.0.1:7000\nhollow-nodes: 3\nagent: false\nwithout: [scheduler, controllers]\n").unwrap();
        assert_eq!(flags, ["--agent=off", "--hollow-nodes=3", "--listen=127.0.0.1:7000", "--without=scheduler,controllers"]);
    }

    #[test]
    fn a_list_whose_items_hold_commas_becomes_a_flag_an_item() {
        let flags = flags_of_file("oidc-required-claim: [a=1, 'b=2,3']\n").unwrap();
        assert_eq!(flags, ["--oidc-required-claim=a=1", "--oidc-required-claim=b=2,3"]);
        assert!(flags_of_file("log: [debug, info]").unwrap_err().to_string().contains("takes one value"));
    }

    #[test]
    fn an_unknown_setting_is_refused_with_the_nearest_name() {
        let error = flags_of_file("hollow-node: 3").unwrap_err().to_string();
        assert!(error.contains("`hollow-nodes`"), "{error}");
    }
}
