//! Flags of `process.scheduler` by the names of the specification (config.md, "Linux Process"): the
//! types that read a configuration know two of them by others.

use serde_json::Value;

/// The specification's names, and those that the types know.
const RENAMED: [(&str, &str); 2] = [
    ("SCHED_FLAG_RESET_ON_FORK", "SCHED_RESET_ON_FORK"),
    ("SCHED_FLAG_DL_OVERRUN", "SCHED_FLAG_D_L_OVERRUN"),
];

/// Renames them in a process; whether there was one.
pub(crate) fn rename_flags(process: &mut Value) -> bool {
    let flags = process.pointer_mut("/scheduler/flags");
    let mut renamed = false;
    for flag in flags.and_then(Value::as_array_mut).into_iter().flatten() {
        let known = RENAMED.iter().find(|(name, _)| flag == *name);
        if let Some((_, known)) = known {
            *flag = Value::from(*known);
            renamed = true;
        }
    }
    renamed
}

#[cfg(test)]
mod tests {
    use oci_spec::runtime::LinuxSchedulerFlag as Flag;
    use serde_json::json;

    use super::*;

    #[test]
    fn every_flag_of_the_specification_is_known() {
        let mut flags = json!([
            "SCHED_FLAG_RESET_ON_FORK",
            "SCHED_FLAG_RECLAIM",
            "SCHED_FLAG_DL_OVERRUN",
            "SCHED_FLAG_KEEP_POLICY",
            "SCHED_FLAG_KEEP_PARAMS",
            "SCHED_FLAG_UTIL_CLAMP_MIN",
            "SCHED_FLAG_UTIL_CLAMP_MAX",
        ]);
        let mut process = json!({"scheduler": {"policy": "SCHED_DEADLINE", "flags": flags}});
        assert!(rename_flags(&mut process));
        assert!(!rename_flags(&mut process));
        flags = process["scheduler"]["flags"].take();
        let read: Vec<Flag> = serde_json::from_value(flags).unwrap();
        assert_eq!(read[0], Flag::SchedResetOnFork);
        assert_eq!(read[2], Flag::SchedFlagDLOverrun);
    }

    #[test]
    fn what_is_no_flag_stays() {
        for mut process in [json!({}), json!({"scheduler": {"flags": [7, "SCHED_X"]}})] {
            let before = process.clone();
            assert!(!rename_flags(&mut process));
            assert_eq!(process, before);
        }
    }
}
