// Opens a page in headless Chromium as a user would: says something, and prints what the page shows.
//
// usage: node open.mjs PAGE TOKEN SOCKET_URL SCREENSHOT.png        needs: npm ci, chromium

import { chromium } from "playwright-core";

const [page, token, url, screenshot] = process.argv.slice(2);
const executablePath = process.env.CHROMIUM ?? "/usr/bin/chromium";
const args = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
  "--disable-background-networking", "--disable-component-update", "--disable-sync"];
const browser = await chromium.launch({ executablePath, args });
const tab = await browser.newPage({ viewport: { width: 820, height: 460 } });
tab.setDefaultTimeout(60_000);
tab.on("pageerror", (error) => { throw error; });

const { sub } = JSON.parse(Buffer.from(token.split(".")[1], "base64url"));
const { href } = new URL(page, import.meta.url);
await tab.goto(`${href}#${new URLSearchParams({ token, url })}`);
await tab.waitForSelector("#status.open");
console.log("open");
console.log(`online: ${await tab.textContent(`#online li:text-is("${sub}")`)}`);

console.log(`notification: ${await tab.textContent("#received li:has-text('notification') code")}`);
await tab.fill("#text", "hello from a page");
await tab.click("button");
console.log(`ack: ${await tab.textContent("#received li:has-text('ack') code")}`);
await tab.screenshot({ path: screenshot });
await browser.close();
console.log("closed");
