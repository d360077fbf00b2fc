//! Replays what a stock API server 1.36 said of expressions: `tests/stock/*.json` hold lists of `[use, expression, answer]`, in
//! which the answer is what a field error says after the value, or null for what is taken.

use std::fs;
use std::path::Path;
use std::thread;

use trireme_cel::{Admission, Environment, STACK_BYTES, Type, Wanted, device};

fn admission(params: bool, authorizer: bool, patches: bool) -> Environment {
    Admission {
        params,
        authorizer,
        patches,
    }
    .environment()
}

/// The environment of a use, and what it wants.
fn place(named: &str) -> (Environment, Wanted) {
    let truth = Wanted::OneOf(vec![Type::Bool]);
    match named {
        "device" => (device(false).clone(), Wanted::Selection),
        "condition" | "validation" => (admission(false, true, false), truth),
        "params" => (admission(true, true, false), truth),
        "message" => (admission(false, false, false), Wanted::OneOf(vec![Type::String])),
        "audit" => (admission(false, true, false), Wanted::OneOf(vec![Type::String, Type::Null])),
        "variable" => {
            let mut environment = admission(false, true, false);
            environment.declare_variables();
            (environment, Wanted::Anything)
        }
        "json" | "apply" => {
            let mut environment = admission(false, true, true);
            environment.declare_variables();
            let wanted = match named {
                "json" => Wanted::json_patch(),
                _ => Wanted::applied_object(),
            };
            (environment, wanted)
        }
        _ => panic!("no such use: {named}"),
    }
}

fn replay(path: &Path) -> Vec<String> {
    let facts: Vec<(String, String, Option<String>)> =
        serde_json::from_str(&fs::read_to_string(path).expect("readable")).expect("facts");
    assert!(!facts.is_empty(), "{}", path.display());
    let differ = |(named, text, wanted): (String, String, Option<String>)| {
        let (environment, want) = place(&named);
        let found = environment.compile(&text, &want).err().map(|why| why.to_string());
        (found != wanted).then(|| format!("{named}: {text}\n wanted: {wanted:?}\n found:  {found:?}"))
    };
    facts.into_iter().filter_map(differ).collect()
}

#[test]
fn a_stock_server_says_the_same() {
    let replayed = thread::Builder::new().stack_size(STACK_BYTES).spawn(|| {
        let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/stock");
        let files = fs::read_dir(directory).expect("facts").flatten();
        files.flat_map(|file| replay(&file.path())).collect::<Vec<_>>()
    });
    let differ = replayed.expect("a thread").join().expect("no panic");
    assert!(differ.is_empty(), "{} differ:\n{}", differ.len(), differ.join("\n"));
}
