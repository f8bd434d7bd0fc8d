package edge

import (
	"encoding/json"
	"fmt"
	"html"
	"net/http"
	"strings"
)

// texts are the balancer's own answers, in Spanish and in English, by status.
var texts = map[int][2]string{
	http.StatusBadRequest: {
		"no se pudo leer el cuerpo de la petición", "the request's body could not be read"},
	http.StatusNotFound: {
		"ruta %s método %s no implementada", "route %s method %s not implemented"},
	http.StatusRequestTimeout: {
		"el cuerpo de la petición tardó demasiado", "the request's body took too long"},
	http.StatusRequestEntityTooLarge: {
		"el cuerpo de la petición es demasiado grande", "the request's body is too large"},
	http.StatusRequestURITooLong: {
		"la dirección es demasiado larga", "the URL is too long"},
	http.StatusMisdirectedRequest: {
		"Balanza no atiende este nombre; para que lo atienda, agréguelo a BALANZA_SERVER_NAMES",
		"Balanza does not answer to this name; to make it, add the name to BALANZA_SERVER_NAMES"},
	http.StatusTooManyRequests: {
		"demasiadas peticiones; reintente en un momento", "too many requests; try again in a moment"},
	http.StatusRequestHeaderFieldsTooLarge: {
		"la cabecera de la petición es demasiado grande, casi siempre por las cookies: borre las de este sitio; " +
			"en localhost se suman las de todos los proyectos: abra 127.0.0.1 en su lugar",
		"the request's header is too large, nearly always because of cookies: delete those of this site; " +
			"on localhost the cookies of all projects add up: open 127.0.0.1 instead"},
	http.StatusBadGateway: {
		"el servidor cortó la conexión; no se sabe si la petición se cumplió",
		"the server broke the connection; it is not known whether the request was carried out"},
	http.StatusServiceUnavailable: {
		"ningún servidor está disponible; reintente en un momento", "no server is available; try again in a moment"},
	http.StatusGatewayTimeout: {
		"el servidor tardó demasiado en responder", "the server took too long to answer"},
}

// writeError answers in place of an upstream: with a page for browsers, with JSON in the site's form for other clients.
func (b *Balancer) writeError(w http.ResponseWriter, r *http.Request, status int) {
	language, text := "es", texts[status][0]
	if english(r.Header.Get("Accept-Language")) {
		language, text = "en", texts[status][1]
	}
	code := -status // negative as the site's codes, and none of them
	if status == http.StatusNotFound {
		code = -2 // the course's code for it
		text = fmt.Sprintf(text, r.URL.Path, r.Method)
	}
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("Vary", "Accept, Accept-Language")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.Header().Set(requestID, r.Header.Get(requestID))
	if status == http.StatusTooManyRequests {
		w.Header().Set("Retry-After", "2") // as nginx's answer
	}
	if strings.Contains(r.Header.Get("Accept"), "text/html") {
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		w.WriteHeader(status)
		fmt.Fprintf(w, "<!doctype html><html lang=%q><title>Balanza %d</title><p>%s</p></html>\n",
			language, status, html.EscapeString(text))
		return
	}
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(struct { // a write fails only when the client has disconnected
		Error       int    `json:"error"`
		Description string `json:"descripcion"`
	}{code, text})
}

// english tells whether the first language of an Accept-Language header that Balanza speaks is English.
func english(accept string) bool {
	for tag := range strings.SplitSeq(strings.ToLower(accept), ",") {
		switch tag = strings.TrimSpace(tag); {
		case strings.HasPrefix(tag, "en"):
			return true
		case strings.HasPrefix(tag, "es"):
			return false
		}
	}
	return false
}
