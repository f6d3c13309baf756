// Runs before the first paint, so that a page that was set to dark does not flash white. No module for that reason.
(() => {
  let theme = null;
  try {
    theme = localStorage.getItem("visord-theme");
  } catch {
    // Storage may be forbidden; the system's theme it is.
  }
  if (theme === "light" || theme === "dark") document.documentElement.dataset.theme = theme;
})();
