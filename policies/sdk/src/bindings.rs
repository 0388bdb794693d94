//! Generated from `wit/`: nothing is written here by hand but the calls.
//!
//! Imports are generated once (`asked`), so that all hooks share one set of types. Each exported interface is a world of
//! its own here, because the generated export macros live at the crate's root, where two worlds with `lifecycle` would
//! collide; the linker joins the worlds that a policy uses. A component imports just what its code calls.

/// Everything a policy may ask, and the types of every hook.
pub mod asked {
    wit_bindgen::generate!({
        inline: "
            package tollgate:sdk;
            world asked {
                import tollgate:policy/types@0.1.0;
                import tollgate:policy/charges@0.1.0;
                import tollgate:policy/request@0.1.0;
                import tollgate:policy/edits@0.1.0;
                import tollgate:policy/catalogue@0.1.0;
                import tollgate:policy/principals@0.1.0;
                import tollgate:policy/keys@0.1.0;
                import tollgate:policy/credential@0.1.0;
                import tollgate:policy/state@0.1.0;
                import tollgate:policy/env@0.1.0;
            }
        ",
        path: "../../wit",
        generate_all,
    });
}

/// The export side of `lifecycle`.
pub mod lifecycle {
    wit_bindgen::generate!({
        inline: "package tollgate:sdk; world lifecycle-only { export tollgate:policy/lifecycle@0.1.0; }",
        path: "../../wit",
        generate_all,
        pub_export_macro: true,
        export_macro_name: "export_lifecycle_interface",
        default_bindings_module: "$crate::bindings::lifecycle",
    });
}

/// The export side of `authenticate`.
pub mod authenticate {
    wit_bindgen::generate!({
        inline: "package tollgate:sdk; world authenticate-only { export tollgate:policy/authenticate@0.1.0; }",
        path: "../../wit",
        with: {
            "tollgate:policy/types@0.1.0": crate::bindings::asked::tollgate::policy::types,
        },
        generate_all,
        pub_export_macro: true,
        export_macro_name: "export_authenticate_interface",
        default_bindings_module: "$crate::bindings::authenticate",
    });
}

/// The export side of `admit`.
pub mod admit {
    wit_bindgen::generate!({
        inline: "package tollgate:sdk; world admit-only { export tollgate:policy/admit@0.1.0; }",
        path: "../../wit",
        with: {
            "tollgate:policy/types@0.1.0": crate::bindings::asked::tollgate::policy::types,
            "tollgate:policy/charges@0.1.0": crate::bindings::asked::tollgate::policy::charges,
        },
        generate_all,
        pub_export_macro: true,
        export_macro_name: "export_admit_interface",
        default_bindings_module: "$crate::bindings::admit",
    });
}

/// The export side of `route`.
pub mod route {
    wit_bindgen::generate!({
        inline: "package tollgate:sdk; world route-only { export tollgate:policy/route@0.1.0; }",
        path: "../../wit",
        with: {
            "tollgate:policy/types@0.1.0": crate::bindings::asked::tollgate::policy::types,
        },
        generate_all,
        pub_export_macro: true,
        export_macro_name: "export_route_interface",
        default_bindings_module: "$crate::bindings::route",
    });
}

/// The export side of `settle`.
pub mod settle {
    wit_bindgen::generate!({
        inline: "package tollgate:sdk; world settle-only { export tollgate:policy/settle@0.1.0; }",
        path: "../../wit",
        with: {
            "tollgate:policy/types@0.1.0": crate::bindings::asked::tollgate::policy::types,
        },
        generate_all,
        pub_export_macro: true,
        export_macro_name: "export_settle_interface",
        default_bindings_module: "$crate::bindings::settle",
    });
}
