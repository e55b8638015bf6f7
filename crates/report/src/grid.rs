//! The one look of tables whose width is their content's: words on the left, figures on the right.

use comfy_table::{CellAlignment, Table, TableComponent, presets};

/// Without lines between rows or columns.
pub(super) fn bare() -> Table {
    let mut table = Table::new();
    table.load_preset(presets::UTF8_HORIZONTAL_ONLY);
    for line in [TableComponent::HorizontalLines, TableComponent::MiddleIntersections] {
        table.remove_style(line);
    }
    table
}

/// As text, with its last line ended.
pub(super) fn aligned(mut table: Table) -> String {
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
        if column.index > 0 {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table.trim_fmt() + "\n"
}
