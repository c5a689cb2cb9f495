//! The demo's service: a web shop with a leak, a cache, and a path that leaks nothing.
//!
//! It knows nothing of leaktrace: it is traced as any other process is.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result};

use crate::probe::own_process;

/// A receipt is kept by mistake once in so many.
const FORGOTTEN_ONE_IN: u64 = 4;
/// Bytes of the buffer in which a receipt is laid out.
const LAYOUT_BYTES: usize = 16 << 10;
/// Bytes of a product's page.
const PAGE_BYTES: usize = 8 << 10;

/// What the shop keeps between requests.
#[derive(Default)]
struct Shop {
    pages: Mutex<HashMap<u64, Vec<u8>>>,
}

/// Serves until it is killed; prints the address first.
///
/// # Errors
///
/// When it cannot listen on loopback.
pub fn main(port_file: Option<&Path>) -> Result<()> {
    own_process::die_with_parent();
    // The name that the report shows; without it, that of leaktrace itself.
    let _ = std::fs::write("/proc/self/comm", "demo-shop");
    let listener = TcpListener::bind("127.0.0.1:0").context("cannot listen on 127.0.0.1")?;
    let address = listener.local_addr()?;
    match port_file {
        Some(path) => std::fs::write(path, address.to_string()).context("cannot write the port")?,
        None => println!("{address}"),
    }
    let shop = Arc::new(Shop::default());
    for stream in listener.incoming() {
        let (shop, stream) = (Arc::clone(&shop), stream.context("cannot accept")?);
        std::thread::Builder::new()
            .spawn(move || {
                // A customer who hangs up is nothing to speak of.
                let _ = serve(&shop, stream);
            })
            .context("cannot serve another customer")?;
    }
    Ok(())
}

fn serve(shop: &Shop, mut stream: TcpStream) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let mut requests = BufReader::new(stream.try_clone()?);
    let mut line = String::new();
    while requests.read_line(&mut line)? != 0 {
        let answer = handle_request(shop, &line);
        writeln!(stream, "{answer}")?;
        line.clear();
    }
    Ok(())
}

#[inline(never)]
fn handle_request(shop: &Shop, line: &str) -> String {
    let query = parse_query(line);
    let id = query.get("id").and_then(|id| id.parse().ok()).unwrap_or(0);
    if line.starts_with("GET /receipt") {
        format!("200 {}", render_receipt(id, &query))
    } else {
        format!("200 {}", show_product(shop, id))
    }
}

/// The churn: allocates a lot, and frees all of it.
#[inline(never)]
fn parse_query(line: &str) -> HashMap<String, String> {
    let query = line.trim().split_once('?').map_or("", |(_, query)| query);
    query
        .split('&')
        .filter_map(|pair| pair.split_once('='))
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .collect()
}

/// The cache: fills up to one page a product, and stays.
#[inline(never)]
fn show_product(shop: &Shop, id: u64) -> usize {
    let mut pages = shop.pages.lock().unwrap_or_else(PoisonError::into_inner);
    pages.entry(id).or_insert_with(|| render_page(id)).len()
}

#[inline(never)]
fn render_page(id: u64) -> Vec<u8> {
    vec![id as u8; PAGE_BYTES]
}

/// The leak: the buffer for the layout is forgotten for some of the receipts.
#[inline(never)]
fn render_receipt(id: u64, query: &HashMap<String, String>) -> usize {
    let mut layout: Vec<u8> = Vec::with_capacity(LAYOUT_BYTES);
    for (key, value) in query {
        layout.extend_from_slice(key.as_bytes());
        layout.extend_from_slice(value.as_bytes());
    }
    let length = layout.len();
    if id.is_multiple_of(FORGOTTEN_ONE_IN) {
        // "The printer still needs it", said whoever wrote this. It does not.
        std::mem::forget(layout);
    }
    length
}
