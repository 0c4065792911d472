# What takes longer than the cases of runtime_faults.sh.
# seconds: 1500

. tests/integration/cases/runtime_faults.sh

case_five_hundred_execs_at_once_have_each_its_status() {
    EXECS=500
    case_many_execs_at_once_have_each_its_status
}
