export { default as init } from "./ringback.js";
