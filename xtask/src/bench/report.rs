//! A measurement's outcome: Markdown tables, as docs/BENCHMARKS.md holds them, or JSON.

use anyhow::{Result, ensure};
use clap::ValueEnum;
use serde_json::{Map, Value, json};

use super::machine;

/// Form of the output.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Output {
    /// One JSON object
    Json,
    /// Markdown
    Table,
}

/// Names and values, in the order in which they are shown.
pub(crate) type Facts = Vec<(String, String)>;

/// One table.
#[derive(Debug)]
pub(crate) struct Sheet {
    /// Its heading line.
    pub(crate) caption: String,
    /// Column names.
    pub(crate) header: Vec<&'static str>,
    /// Cells.
    pub(crate) rows: Vec<Vec<String>>,
}

/// The outcome of one measurement.
#[derive(Debug)]
pub(crate) struct Report {
    /// Which measurement.
    pub(crate) name: &'static str,
    /// What was measured, beside the machine's facts.
    pub(crate) facts: Facts,
    /// For people.
    pub(crate) sheets: Vec<Sheet>,
    /// For programs.
    pub(crate) results: Value,
    /// What could not be measured, and why.
    pub(crate) failures: Vec<String>,
}

impl Report {
    /// Prints it to standard output.
    ///
    /// # Errors
    /// Behind the figures that there are, when something could not be measured.
    pub(crate) fn print(&self, output: Output) -> Result<()> {
        match output {
            Output::Json => println!("{}", serde_json::to_string_pretty(&self.json(&machine::facts()))?),
            Output::Table => println!("{}", self.markdown(&machine::facts())),
        }
        ensure!(
            self.failures.is_empty(),
            "{} phase(s) could not be measured; see above",
            self.failures.len()
        );
        Ok(())
    }

    fn json(&self, machine: &[(String, String)]) -> Value {
        let object = |facts: &[(String, String)]| -> Map<String, Value> {
            facts
                .iter()
                .map(|(key, value)| (key.clone(), Value::from(value.as_str())))
                .collect()
        };
        json!({
            "bench": self.name,
            "machine": object(machine),
            "subject": object(&self.facts),
            "results": self.results,
            "failures": self.failures,
        })
    }

    fn markdown(&self, machine: &[(String, String)]) -> String {
        let mut text = format!("## bench {}\n", self.name);
        for (key, value) in machine.iter().chain(&self.facts) {
            text.push_str(&format!("\n- {key}: {value}"));
        }
        for sheet in &self.sheets {
            let mut table = comfy_table::Table::new();
            table
                .load_preset(comfy_table::presets::ASCII_MARKDOWN)
                .set_header(sheet.header.clone());
            table.add_rows(sheet.rows.clone());
            text.push_str(&format!("\n\n{}\n\n{table}", sheet.caption));
        }
        for failure in &self.failures {
            text.push_str(&format!("\n\nNot measured: {failure}"));
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> Report {
        Report {
            name: "api",
            facts: vec![("server".into(), "v1".into())],
            sheets: vec![Sheet {
                caption: "Requests".into(),
                header: vec!["what", "rate"],
                rows: vec![vec!["get".into(), "1".into()]],
            }],
            results: json!([1]),
            failures: vec!["list: 500".into()],
        }
    }

    #[test]
    fn markdown_holds_facts_and_tables() {
        let text = report().markdown(&[("CPU".into(), "fast".into())]);
        assert!(
            text.starts_with("## bench api\n\n- CPU: fast\n- server: v1\n\nRequests\n\n| what | rate |\n|---"),
            "{text}"
        );
        assert!(text.contains("| get  | 1    |"), "{text}");
        assert!(text.ends_with("Not measured: list: 500"), "{text}");
    }

    #[test]
    fn json_holds_results() {
        let value = report().json(&[("CPU".into(), "fast".into())]);
        let expected = json!({"bench": "api", "machine": {"CPU": "fast"}, "subject": {"server": "v1"}, "results": [1], "failures": ["list: 500"]});
        assert_eq!(value, expected);
    }
}
