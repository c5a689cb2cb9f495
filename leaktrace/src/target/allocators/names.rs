//! How the functions of the catalogue are called by people.

/// The name as people write it.
pub fn display_name(name: &str) -> String {
    let mut shown = match name.get(..4) {
        Some("_Znw") => "operator new".to_owned(),
        Some("_Zna") => "operator new[]".to_owned(),
        Some("_Zdl") => "operator delete".to_owned(),
        Some("_Zda") => "operator delete[]".to_owned(),
        _ => return name.to_owned(),
    };
    let mut arguments = Vec::new();
    if name.starts_with("_Zd") {
        arguments.push("void*");
    }
    if name.starts_with("_Zn") || name.contains("Pvm") {
        arguments.push("size_t");
    }
    if name.contains("align_val_t") {
        arguments.push("align_val_t");
    }
    if name.contains("nothrow_t") {
        arguments.push("nothrow");
    }
    shown.push_str(&format!("({})", arguments.join(", ")));
    shown
}
