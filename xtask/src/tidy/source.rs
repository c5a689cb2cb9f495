//! A Rust source, read for what the rules ask about: which paths it names, from where.

use std::collections::HashMap;

use proc_macro2::{Delimiter, Spacing, Span, TokenStream, TokenTree};
use syn::visit::{self, Visit};

/// What the rules look at. Lines count from 1.
#[derive(Debug, Default)]
pub(super) struct Source {
    /// Every path that is imported or named; those that start with `self`, `super` or an imported
    /// name written out from `crate` or from a crate's name.
    pub(super) paths: Vec<Named>,
    /// The paths of `use ...::*`.
    pub(super) globs: Vec<Named>,
    /// Each `unsafe`, in whatever role.
    pub(super) unsafe_lines: Vec<usize>,
    /// String literals, as written; documentation is none.
    pub(super) strings: Vec<(String, usize)>,
    /// `#[allow(...)]` without a reason.
    pub(super) bare_allows: Vec<usize>,
    /// `#[ignore]`.
    pub(super) ignores: Vec<usize>,
    /// Where an example starts in documentation.
    pub(super) examples: Vec<usize>,
    /// Modules with a body in this file.
    pub(super) modules: Vec<(String, usize)>,
}

/// A path and the line it stands on.
#[derive(Debug, Clone)]
pub(super) struct Named {
    pub(super) path: Vec<String>,
    pub(super) line: usize,
    /// The import that its first segment stands for.
    pub(super) import: Option<Vec<String>>,
}

/// Reads a source; `file` is the path from the workspace's root. The error is a line and a reason.
pub(super) fn read(file: &str, text: &str) -> Result<Source, (usize, String)> {
    let tokens: TokenStream =
        text.parse().map_err(|e: proc_macro2::LexError| (line_of(e.span()), e.to_string()))?;
    let mut source = Source::default();
    read_tokens(tokens.clone(), &mut source);
    let parsed: syn::File =
        syn::parse2(tokens).map_err(|error| (line_of(error.span()), error.to_string()))?;
    let mut reader = Reader {
        source,
        module: module_of(file),
        imports: Vec::new(),
        named: Vec::new(),
        in_example: false,
    };
    reader.visit_file(&parsed);
    Ok(reader.finish())
}

fn line_of(span: Span) -> usize {
    span.start().line
}

/// `unsafe` and strings: they mean the same wherever they stand, macros included.
fn read_tokens(tokens: TokenStream, source: &mut Source) {
    for token in tokens {
        match token {
            TokenTree::Ident(ident) if ident == "unsafe" => {
                source.unsafe_lines.push(line_of(ident.span()));
            }
            TokenTree::Literal(literal) if literal.to_string().contains('"') => {
                source.strings.push((literal.to_string(), line_of(literal.span())));
            }
            TokenTree::Group(group) if !is_documentation(&group) => {
                read_tokens(group.stream(), source);
            }
            _ => {}
        }
    }
}

fn is_documentation(group: &proc_macro2::Group) -> bool {
    let first = group.stream().into_iter().next();
    group.delimiter() == Delimiter::Bracket
        && matches!(first, Some(TokenTree::Ident(ident)) if ident == "doc")
}

/// The modules from the crate's root to a file.
fn module_of(file: &str) -> Vec<String> {
    let below = file.split_once("src/").map_or(file, |(_, below)| below);
    let below = below.strip_suffix(".rs").unwrap_or(below);
    let mut module: Vec<String> = below.split('/').map(str::to_owned).collect();
    let last = module.last().map(String::as_str);
    if last == Some("mod") || (module.len() == 1 && matches!(last, Some("lib" | "main"))) {
        module.pop();
    }
    module
}

/// Writes `self` and `super` out.
fn absolute(module: &[String], path: &[String]) -> Vec<String> {
    let upwards = path.iter().take_while(|segment| *segment == "super").count();
    let (kept, skipped) = match path.first().map(String::as_str) {
        Some("self") => {
            // `self::super::x` is legal.
            let more = path.iter().skip(1).take_while(|segment| *segment == "super").count();
            (module.len().saturating_sub(more), more + 1)
        }
        Some("super") => (module.len().saturating_sub(upwards), upwards),
        _ => return path.to_vec(),
    };
    let root = std::iter::once("crate".to_owned());
    root.chain(module.iter().take(kept).cloned())
        .chain(path.iter().skip(skipped).cloned())
        .collect()
}

struct Import {
    /// The name it has here.
    name: String,
    path: Named,
}

struct Reader {
    source: Source,
    /// Where in the crate the visited item is.
    module: Vec<String>,
    imports: Vec<Import>,
    named: Vec<Named>,
    /// Between the fences of an example in documentation.
    in_example: bool,
}

impl Reader {
    fn finish(mut self) -> Source {
        let renamed: HashMap<String, Vec<String>> =
            self.imports.iter().map(|i| (i.name.clone(), i.path.path.clone())).collect();
        let written_out = self.named.into_iter().map(|mut named| {
            let import = named.path.first().and_then(|first| renamed.get(first));
            if let Some(import) = import {
                named.path.splice(..1, import.iter().cloned());
                named.import = Some(import.clone());
            }
            named
        });
        self.source.paths.extend(self.imports.iter().map(|import| import.path.clone()));
        self.source.paths.extend(written_out);
        self.source
    }

    fn import(&mut self, tree: &syn::UseTree, above: &[String]) {
        let with = |ident: &syn::Ident| {
            let mut path = above.to_vec();
            path.push(ident.to_string());
            path
        };
        match tree {
            syn::UseTree::Path(path) => self.import(&path.tree, &with(&path.ident)),
            syn::UseTree::Group(group) => {
                for tree in &group.items {
                    self.import(tree, above);
                }
            }
            syn::UseTree::Glob(glob) => {
                let path = absolute(&self.module, above);
                let line = line_of(glob.star_token.spans[0]);
                self.source.globs.push(Named { path, line, import: None });
            }
            syn::UseTree::Name(name) => {
                self.import_as(&name.ident, &name.ident, above, with(&name.ident))
            }
            syn::UseTree::Rename(rename) => {
                self.import_as(&rename.ident, &rename.rename, above, with(&rename.ident));
            }
        }
    }

    fn import_as(
        &mut self,
        ident: &syn::Ident,
        name: &syn::Ident,
        above: &[String],
        path: Vec<String>,
    ) {
        // `use a::b::{self}` imports `a::b`.
        let itself = ident == "self" && !above.is_empty();
        let path = if itself { above.to_vec() } else { path };
        let name = match path.last() {
            Some(last) if itself && name == "self" => last.clone(),
            _ => name.to_string(),
        };
        let line = line_of(ident.span());
        let path = Named { path: absolute(&self.module, &path), line, import: None };
        self.imports.push(Import { name, path });
    }

    fn name(&mut self, path: &[String], line: usize) {
        self.named.push(Named { path: absolute(&self.module, path), line, import: None });
    }

    /// The paths in what a macro is given, which nobody can parse but the macro.
    fn read_macro(&mut self, tokens: TokenStream) {
        let mut path: Vec<String> = Vec::new();
        let mut line = 0;
        let mut colons = 0;
        for token in tokens {
            match token {
                TokenTree::Ident(ident) => {
                    if colons != 2 && !path.is_empty() {
                        self.name(&std::mem::take(&mut path), line);
                    }
                    if path.is_empty() {
                        line = line_of(ident.span());
                    }
                    path.push(ident.to_string());
                    colons = 0;
                }
                TokenTree::Punct(punct) if punct.as_char() == ':' => {
                    let joined = colons == 0 && punct.spacing() == Spacing::Joint;
                    colons = if joined || colons == 1 { colons + 1 } else { 0 };
                }
                other => {
                    if !path.is_empty() {
                        self.name(&std::mem::take(&mut path), line);
                    }
                    colons = 0;
                    if let TokenTree::Group(group) = other {
                        self.read_macro(group.stream());
                    }
                }
            }
        }
        if !path.is_empty() {
            self.name(&path, line);
        }
    }
}

impl<'ast> Visit<'ast> for Reader {
    fn visit_item_use(&mut self, item: &'ast syn::ItemUse) {
        for attribute in &item.attrs {
            self.visit_attribute(attribute);
        }
        self.import(&item.tree, &[]);
    }

    fn visit_item_extern_crate(&mut self, item: &'ast syn::ItemExternCrate) {
        let name = item.rename.as_ref().map_or(&item.ident, |(_, name)| name);
        self.import_as(&item.ident, name, &[], vec![item.ident.to_string()]);
    }

    fn visit_item_mod(&mut self, item: &'ast syn::ItemMod) {
        let line = line_of(item.ident.span());
        if item.content.is_some() {
            self.source.modules.push((item.ident.to_string(), line));
        }
        self.module.push(item.ident.to_string());
        visit::visit_item_mod(self, item);
        self.module.pop();
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        let segments: Vec<String> = path.segments.iter().map(|s| s.ident.to_string()).collect();
        let line = path.segments.first().map_or(0, |first| line_of(first.ident.span()));
        self.name(&segments, line);
        visit::visit_path(self, path);
    }

    fn visit_macro(&mut self, called: &'ast syn::Macro) {
        self.read_macro(called.tokens.clone());
        visit::visit_macro(self, called);
    }

    fn visit_attribute(&mut self, attribute: &'ast syn::Attribute) {
        let line = line_of(attribute.pound_token.spans[0]);
        let path = attribute.path();
        if path.is_ident("ignore") {
            self.source.ignores.push(line);
        }
        if let syn::Meta::NameValue(pair) = &attribute.meta
            && path.is_ident("doc")
        {
            self.read_documentation(&pair.value, line);
        } else {
            self.in_example = false;
        }
        if let syn::Meta::List(list) = &attribute.meta {
            let reasonless = |tokens: TokenStream| !has_reason(tokens);
            if path.is_ident("allow") && reasonless(list.tokens.clone()) {
                self.source.bare_allows.push(line);
            }
            if path.is_ident("cfg_attr") {
                self.read_cfg_attr(list.tokens.clone(), line);
            }
        }
        visit::visit_attribute(self, attribute);
    }
}

impl Reader {
    /// A line of `///` is an attribute of its own.
    fn read_documentation(&mut self, value: &syn::Expr, line: usize) {
        let syn::Expr::Lit(syn::ExprLit { lit: syn::Lit::Str(text), .. }) = value else { return };
        for (index, text) in text.value().lines().enumerate() {
            if let Some(language) = text.trim_start().strip_prefix("```") {
                if !self.in_example && !language.starts_with("text") {
                    self.source.examples.push(line + index);
                }
                self.in_example = !self.in_example;
            }
        }
    }

    /// The attributes behind a condition.
    fn read_cfg_attr(&mut self, tokens: TokenStream, line: usize) {
        let tokens: Vec<TokenTree> = tokens.into_iter().collect();
        for (index, token) in tokens.iter().enumerate() {
            let TokenTree::Ident(ident) = token else { continue };
            match (ident.to_string().as_str(), tokens.get(index + 1)) {
                ("allow", Some(TokenTree::Group(group))) if !has_reason(group.stream()) => {
                    self.source.bare_allows.push(line);
                }
                ("ignore", _) => self.source.ignores.push(line),
                _ => {}
            }
        }
    }
}

fn has_reason(tokens: TokenStream) -> bool {
    tokens.into_iter().any(|token| matches!(token, TokenTree::Ident(ident) if ident == "reason"))
}
