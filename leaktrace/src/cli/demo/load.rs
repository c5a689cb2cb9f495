//! Load on the demo's service: customers who ask for one page after another, over loopback.

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

/// How many customers there are.
pub const CUSTOMERS: u64 = 2;
/// What a customer waits between two pages.
const PAUSE: Duration = Duration::from_millis(4);
/// How many different products are looked at.
const PRODUCTS: u64 = 500;

/// Customers at work.
pub struct Load {
    stop: Arc<AtomicBool>,
    requests: Arc<AtomicU64>,
    customers: Vec<JoinHandle<()>>,
}

impl Load {
    /// Lets the customers in.
    pub fn start(address: SocketAddr) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let requests = Arc::new(AtomicU64::new(0));
        let customers = (0..CUSTOMERS)
            .filter_map(|customer| {
                let (stop, requests) = (Arc::clone(&stop), Arc::clone(&requests));
                std::thread::Builder::new()
                    .spawn(move || {
                        // The service may be gone before the last customer: that ends the visit.
                        let _ = visit(address, customer, &stop, &requests);
                    })
                    .ok()
            })
            .collect();
        Self { stop, requests, customers }
    }

    /// Sends them home; returns how many requests they made.
    pub fn stop(self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        for customer in self.customers {
            // A panic there has been printed and changes nothing here.
            let _ = customer.join();
        }
        self.requests.load(Ordering::Relaxed)
    }
}

fn visit(
    address: SocketAddr,
    customer: u64,
    stop: &AtomicBool,
    requests: &AtomicU64,
) -> std::io::Result<()> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    let mut answers = BufReader::new(stream.try_clone()?);
    let mut answer = String::new();
    let mut turn = customer;
    while !stop.load(Ordering::Relaxed) {
        turn += 1;
        let product = turn * 7919 % PRODUCTS;
        let page = if turn.is_multiple_of(3) { "receipt" } else { "product" };
        writeln!(stream, "GET /{page}?id={product}&customer={customer}&session=s{turn}")?;
        answer.clear();
        if answers.read_line(&mut answer)? == 0 {
            break;
        }
        requests.fetch_add(1, Ordering::Relaxed);
        std::thread::sleep(PAUSE);
    }
    Ok(())
}
