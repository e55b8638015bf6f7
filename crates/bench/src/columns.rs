//! Figures in columns, for terminals.

use comfy_table::{CellAlignment, ContentArrangement, Table, TableComponent, presets};

/// A table of at most `columns` characters: names on the left, figures on the right.
pub(crate) fn rendered(headings: &[&str], rows: Vec<Vec<String>>, columns: u16) -> String {
    let mut table = Table::new();
    table.load_preset(presets::UTF8_HORIZONTAL_ONLY).set_content_arrangement(ContentArrangement::Dynamic).set_width(columns);
    for line in [TableComponent::HorizontalLines, TableComponent::MiddleIntersections] {
        table.remove_style(line);
    }
    table.set_header(headings).add_rows(rows);
    for column in table.column_iter_mut() {
        column.set_padding((0, 1));
        if column.index > 0 {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table.trim_fmt() + "\n"
}
