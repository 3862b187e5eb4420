//! The scenarios that are quick enough for every landing, each lived twice: one seed is one
//! history. That their figures are within the gates is for `cargo sim -- gates --quick` to say.

use flotilla_e2e_sim::{catalogue, gates, run};

macro_rules! lived_twice {
    ($($test:ident: $name:literal,)*) => {
        $(
            #[test]
            fn $test() {
                let scenario = catalogue::find($name).expect("a scenario of the catalogue");
                let live = || run(&scenario, 1).unwrap_or_else(|violation| panic!("{violation}"));
                assert_eq!(live(), live(), "one seed is one history");
            }
        )*

        #[test]
        fn every_quick_scenario_is_lived_twice() {
            assert_eq!(gates::QUICK, [$($name),*]);
        }
    };
}

lived_twice! {
    even_200: "even-200",
    two_zones: "two-zones",
    narrow_budget: "narrow-budget",
    unequal: "unequal",
    power_off_5pct: "power-off-5pct",
    local_200: "local-200",
    seed_dies: "seed-dies",
    lone_late: "lone-late",
    even_200_64m: "even-200-64m",
    slow_10pct: "slow-10pct",
    far_scheduler: "far-scheduler",
    overload_500: "overload-500",
    disk_full_10pct: "disk-full-10pct",
    corrupt_parent: "corrupt-parent",
}
