//! Flags by docker's rules: of one that is given twice the last counts, and a switch takes `=BOOL`.

use clap::{Arg, ArgAction, Command};

/// The command line as it is read. Help, manuals and completion are those of the one that this is made
/// of, where a switch shows no value.
pub(crate) fn lenient(command: Command) -> Command {
    command
        .args_override_self(true)
        .mut_args(switch)
        .mut_subcommands(lenient)
}

fn switch(arg: Arg) -> Arg {
    if !matches!(arg.get_action(), ArgAction::SetTrue) {
        return arg;
    }
    arg.action(ArgAction::Set)
        .num_args(0..=1)
        .require_equals(true)
        .default_missing_value("true")
        .default_value("false")
        .value_parser(boolean)
}

/// As Go reads them.
pub(crate) fn boolean(text: &str) -> Result<bool, String> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        _ => Err("want true or false".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use clap::error::ErrorKind;

    use super::*;

    /// The words that lead to each command, and the command.
    fn leaves(command: &Command, words: &[String]) -> Vec<(Vec<String>, Command)> {
        let words = [words, &[command.get_name().to_owned()]].concat();
        let below = command
            .get_subcommands()
            .flat_map(|sub| leaves(sub, &words));
        let mut found: Vec<_> = below.collect();
        found.push((words, command.clone()));
        found
    }

    /// What remains to be said against a command line: never its flags.
    fn accepted(words: &[String]) {
        let parsed = lenient(crate::command_line()).try_get_matches_from(words);
        let kinds = [
            ErrorKind::MissingRequiredArgument,
            ErrorKind::MissingSubcommand,
            ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand,
        ];
        if let Err(error) = parsed {
            assert!(kinds.contains(&error.kind()), "{words:?}: {error}");
        }
    }

    #[test]
    fn each_switch_may_be_given_twice_and_takes_a_value() {
        let mut tried = 0;
        for (words, command) in leaves(&crate::command_line(), &[]) {
            let switches = command
                .get_arguments()
                .filter(|arg| matches!(arg.get_action(), ArgAction::SetTrue))
                .filter_map(|arg| arg.get_long());
            for name in switches {
                for ways in [["", ""], ["=true", "=false"], ["=0", "=T"]] {
                    let flags = ways.map(|value| format!("--{name}{value}"));
                    accepted(&[&words[..], &flags].concat());
                    tried += 1;
                }
            }
        }
        assert!(tried > 100, "{tried}");
    }

    fn run(words: &str) -> Result<clap::ArgMatches, clap::Error> {
        let words = format!("hull run {words}");
        let matches =
            lenient(crate::command_line()).try_get_matches_from(words.split_whitespace())?;
        Ok(matches.subcommand().unwrap().1.clone())
    }

    #[test]
    fn the_last_one_counts_and_what_is_the_containers_is_its_own() {
        let parsed =
            run("-it -i --rm --rm=false -m 1g -m 2g --name a --name b x sh --rm=maybe -i").unwrap();
        assert_eq!(parsed.get_one("rm"), Some(&false));
        assert_eq!(parsed.get_one("interactive"), Some(&true));
        assert_eq!(parsed.get_one("tty"), Some(&true));
        assert_eq!(parsed.get_one::<String>("name").unwrap(), "b");
        // A word after a switch is not its value.
        let parsed = run("--rm true").unwrap();
        assert_eq!(parsed.get_one("rm"), Some(&true));
        assert_eq!(
            run("--rm=maybe x").unwrap_err().kind(),
            ErrorKind::ValueValidation
        );
    }
}
