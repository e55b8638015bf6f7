//! The CSV that NVIDIA's tools print: a table somewhere behind lines of chatter, with units in its head.

use thiserror::Error;

#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ExtractError {
    #[error("it holds no table with the columns {}; {}", wanted.join(", "), match first { Some(line) => format!("it begins with `{line}`"), None => "it is empty".into() })]
    NoTable { wanted: Vec<&'static str>, first: Option<String> },
    #[error("line {line} has {fields} fields, and the table {columns} columns: it was cut short")]
    Fields { line: usize, fields: usize, columns: usize },
    #[error("line {line}: the {column} is `{value}`, not a number of at least 0")]
    Number { line: usize, column: &'static str, value: String },
    #[error("the column {column} is in `{unit}`, a unit that is not known")]
    Unit { column: &'static str, unit: String },
    #[error("the table holds no rows: nothing ran on a GPU while the tool watched")]
    Empty,
}

/// A table whose rows all have a field for each column.
#[derive(Debug)]
pub(super) struct Table {
    /// Name and unit, from a head such as `Bytes (MB)`.
    columns: Vec<(String, String)>,
    rows: Vec<Row>,
}

#[derive(Debug)]
pub(super) struct Row {
    /// In the text, from 1.
    line: usize,
    fields: Vec<String>,
}

/// A column of a table.
#[derive(Clone, Copy, Debug)]
pub(super) struct Column {
    name: &'static str,
    at: usize,
}

impl Table {
    /// The first table in this text that has all of these columns.
    pub(super) fn find(text: &str, wanted: &[&'static str]) -> Result<Table, ExtractError> {
        let mut lines = text.lines().enumerate().map(|(i, line)| (i + 1, line.trim())).filter(|(_, line)| !line.is_empty());
        let columns = lines.by_ref().map(|(_, line)| fields(line)).find_map(|head| {
            let columns: Vec<_> = head.iter().map(|name| name_and_unit(name)).collect();
            wanted.iter().all(|name| columns.iter().any(|(column, _)| column == name)).then_some(columns)
        });
        let Some(columns) = columns else {
            let first = text.lines().map(str::trim).find(|line| !line.is_empty()).map(|line| line.chars().take(80).collect());
            return Err(ExtractError::NoTable { wanted: wanted.to_vec(), first });
        };
        let mut rows = Vec::new();
        for (line, text) in lines {
            let fields = fields(text);
            if fields.len() != columns.len() {
                return Err(ExtractError::Fields { line, fields: fields.len(), columns: columns.len() });
            }
            rows.push(Row { line, fields });
        }
        if rows.is_empty() { Err(ExtractError::Empty) } else { Ok(Table { columns, rows }) }
    }

    pub(super) fn rows(&self) -> &[Row] {
        &self.rows
    }

    /// One of the columns that `find` was asked for.
    pub(super) fn column(&self, name: &'static str) -> Result<Column, ExtractError> {
        let at = self.columns.iter().position(|(column, _)| column == name);
        at.map(|at| Column { name, at }).ok_or(ExtractError::NoTable { wanted: vec![name], first: None })
    }

    /// A column's unit, as a factor from this list.
    pub(super) fn unit(&self, column: Column, known: &[(&str, f64)]) -> Result<f64, ExtractError> {
        factor(column.name, &self.columns[column.at].1, known)
    }
}

/// What one of these units counts.
pub(super) fn factor(column: &'static str, unit: &str, known: &[(&str, f64)]) -> Result<f64, ExtractError> {
    let found = known.iter().find(|(name, _)| *name == unit).map(|(_, factor)| *factor);
    found.ok_or_else(|| ExtractError::Unit { column, unit: unit.to_owned() })
}

impl Row {
    pub(super) fn text(&self, column: Column) -> &str {
        &self.fields[column.at]
    }

    /// A number of at least 0; none for an empty field.
    pub(super) fn number(&self, column: Column) -> Result<Option<f64>, ExtractError> {
        let text = self.text(column);
        if text.is_empty() {
            return Ok(None);
        }
        let value = text.replace(',', "").parse::<f64>().ok().filter(|value| value.is_finite() && *value >= 0.0);
        let wrong = || ExtractError::Number { line: self.line, column: column.name, value: text.to_owned() };
        value.map(Some).ok_or_else(wrong)
    }

    /// A number that every row must have.
    pub(super) fn required(&self, column: Column) -> Result<f64, ExtractError> {
        let missing = || ExtractError::Number { line: self.line, column: column.name, value: String::new() };
        self.number(column)?.ok_or_else(missing)
    }
}

/// `Bytes (MB)` is Bytes in MB; a name without parentheses has no unit.
fn name_and_unit(head: &str) -> (String, String) {
    match head.strip_suffix(')').and_then(|head| head.split_once(" (")) {
        Some((name, unit)) => (name.to_owned(), unit.to_owned()),
        None => (head.to_owned(), String::new()),
    }
}

/// One line of CSV. Lines are read one by one: a quote in the chatter before the table does not reach into it.
fn fields(line: &str) -> Vec<String> {
    let mut reader = csv::ReaderBuilder::new().has_headers(false).trim(csv::Trim::All).from_reader(line.as_bytes());
    // The line is a string, so its fields are; one without a field is none that is asked for.
    let record = reader.records().next().and_then(Result::ok).unwrap_or_default();
    record.iter().map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotes_keep_commas() {
        assert_eq!(fields(r#"1,"f(int, ""x"")",,2"#), ["1", r#"f(int, "x")"#, "", "2"]);
    }

    #[test]
    fn the_table_is_found_behind_chatter_and_its_units_are_read() {
        let table = Table::find("Processing [a, b]...\n\nName,Bytes (MB)\nx,\"1,234.5\"\ny,\n", &["Bytes", "Name"]).unwrap();
        let bytes = table.column("Bytes").unwrap();
        assert_eq!(table.unit(bytes, &[("B", 1.0), ("MB", 1e6)]), Ok(1e6));
        assert_eq!(table.rows()[0].number(bytes), Ok(Some(1234.5)));
        assert_eq!(table.rows()[1].number(bytes), Ok(None));
        let unknown = ExtractError::Unit { column: "Bytes", unit: "MB".into() };
        assert_eq!(table.unit(bytes, &[("B", 1.0)]), Err(unknown));
    }

    #[test]
    fn what_is_no_table_is_named() {
        let error = |text| Table::find(text, &["A", "B"]).unwrap_err();
        assert_eq!(error(""), ExtractError::NoTable { wanted: vec!["A", "B"], first: None });
        assert!(error("SKIPPED: no CUDA trace data\n").to_string().contains("SKIPPED: no CUDA trace data"));
        assert_eq!(error("A,B\n1,2\n3\n"), ExtractError::Fields { line: 3, fields: 1, columns: 2 });
        assert_eq!(error("A,B\n"), ExtractError::Empty);
        for value in ["x", "-1", "NaN", "1e999"] {
            let table = Table::find(&format!("A,B\n{value},2\n"), &["A", "B"]).unwrap();
            let error = table.rows()[0].required(table.column("A").unwrap()).unwrap_err();
            assert_eq!(error, ExtractError::Number { line: 2, column: "A", value: value.into() });
        }
    }
}
