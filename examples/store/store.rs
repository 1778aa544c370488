//! The store, open: four services, the gateway in front of and between them, and who signs tokens.

use std::{path::Path, sync::Arc, time::Duration};

use fastrand::Rng;

use crate::{
    analytics::Analytics,
    audit::Facts,
    customers::{Issuer, Told},
    error::Error,
    event::Secret,
    fulfillment::Fulfillment,
    gateway::{Addresses, Gateway},
    http::{Server, free_address},
    inventory::Inventory,
    options::{Break, Options},
    orders::{End, Orders},
    payment::Payment,
    service::{Business, Counts, Manners, Service},
    shop::{CAPACITY, Day},
};

/// Events that a service works on at once.
const WORKERS: usize = 8;
/// This share of what the services do is done without anybody hearing of it.
const LOST_ANSWERS: f64 = 0.01;

/// All of it.
pub(crate) struct Store {
    pub(crate) gateway: Gateway,
    pub(crate) at: Addresses,
    pub(crate) issuer: Arc<Issuer>,
    pub(crate) orders: Running<Orders>,
    pub(crate) inventory: Running<Inventory>,
    pub(crate) payment: Running<Payment>,
    pub(crate) fulfillment: Running<Fulfillment>,
}

/// A service, and the server that may be killed.
pub(crate) struct Running<B> {
    pub(crate) service: Arc<Service<B>>,
    server: Option<Server>,
}

// === impl Store ===

impl Store {
    /// Everything runs when this comes back.
    pub(crate) async fn open(
        options: &Options,
        program: &Path,
        folder: &Path,
        day: &Day,
    ) -> Result<Self, Error> {
        let mut luck = Rng::with_seed(options.seed);
        let jwt_secret = format!("{:032x}{:032x}", luck.u128(..), luck.u128(..));
        let mut environment = vec![("STORE_JWT_SECRET".to_owned(), jwt_secret.clone())];
        let mut secret = |variable: &str| {
            let secret = Secret::new(&luck.u128(..).to_be_bytes().repeat(2));
            environment.push((variable.to_owned(), secret.text.clone()));
            (secret, luck.fork())
        };
        let remembers = options.broken != Some(Break::Dedup);
        let manners = |milliseconds| Manners {
            workers: WORKERS,
            time: Duration::from_millis(milliseconds),
            lost_answers: LOST_ANSWERS,
            remembers,
        };
        let inventory = Inventory::new(day.stock.clone());
        // Payment is the slowest: the capacity of the store is its.
        let slow = manners(WORKERS as u64 * 1_000 / u64::from(CAPACITY));
        let orders =
            Running::start(Orders::default(), secret("STORE_ORDERS_SECRET"), manners(10)).await?;
        let inventory =
            Running::start(inventory, secret("STORE_INVENTORY_SECRET"), manners(40)).await?;
        let payment =
            Running::start(Payment::default(), secret("STORE_PAYMENT_SECRET"), slow).await?;
        let secret = secret("STORE_FULFILLMENT_SECRET");
        let fulfillment = Running::start(Fulfillment::default(), secret, manners(40)).await?;
        let at = Addresses {
            web: free_address()?,
            admin: free_address()?,
            orders: orders.service.address(),
            inventory: inventory.service.address(),
            payment: payment.service.address(),
            fulfillment: fulfillment.service.address(),
        };
        let how = (options.storage, options.broken);
        let mut gateway = Gateway::new(program.to_owned(), folder, &at, environment, how)?;
        gateway.start().await?;
        Ok(Self {
            gateway,
            at,
            issuer: Arc::new(Issuer::new(&jwt_secret)),
            orders,
            inventory,
            payment,
            fulfillment,
        })
    }

    /// Orders that have not come to their end.
    pub(crate) fn under_way(&self) -> usize {
        self.orders.service.state().business.open()
    }

    /// Whether anything is still to come: an end, a parcel, stock that is put back.
    pub(crate) fn is_busy(&self) -> bool {
        let paid = self.orders.service.state().business.ended(End::Paid);
        let shipped = self.fulfillment.service.state().business.shipped.len() as u64;
        let declined = self.payment.service.state().business.declined.len() as u64;
        let put_back = self.inventory.service.state().business.put_back;
        self.under_way() > 0 || shipped < paid || put_back < declined
    }

    /// What the services counted, together.
    pub(crate) fn counts(&self) -> Counts {
        self.orders.service.counts()
            + self.inventory.service.counts()
            + self.payment.service.counts()
            + self.fulfillment.service.counts()
    }

    /// What everybody wrote down.
    pub(crate) fn facts(
        &self,
        told: Vec<Told>,
        analytics: Analytics,
        (strangers, dead_letters): (u64, u64),
    ) -> Facts {
        Facts {
            told,
            orders: self.orders.service.books(),
            inventory: self.inventory.service.books(),
            payment: self.payment.service.books(),
            fulfillment: self.fulfillment.service.books(),
            analytics,
            counts: self.counts(),
            strangers,
            dead_letters,
        }
    }
}

// === impl Running ===

impl<B: Business> Running<B> {
    async fn start(
        business: B,
        (secret, luck): (Secret, Rng),
        manners: Manners,
    ) -> Result<Self, Error> {
        let at = free_address()?;
        let service = Service::new(business, (secret, luck), manners, at);
        let mut running = Self { service, server: None };
        running.revive().await?;
        Ok(running)
    }

    /// Breaks off what is under way, and answers nobody any more.
    pub(crate) fn kill(&mut self) {
        self.server = None;
    }

    /// Serves again, with what it has on disk.
    pub(crate) async fn revive(&mut self) -> Result<(), Error> {
        let service = Arc::clone(&self.service);
        self.server = Some(Server::start(service.address(), service).await?);
        Ok(())
    }
}
