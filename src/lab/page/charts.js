/* Makes a chart of each configuration in the page; on paper it takes the paper's width. */
"use strict";
(function () {
	const charts = [];

	for (const script of document.querySelectorAll("script.config")) {
		const config = JSON.parse(script.textContent);

		charts.push(new Chart(document.getElementById(script.dataset.canvas), config));
	}
	window.addEventListener("beforeprint", () => charts.forEach((c) => c.resize()));
	window.addEventListener("afterprint", () => charts.forEach((c) => c.resize()));
})();
