// Go's net/http and gin, as their guides show them.
package main

import (
	"encoding/base64"
	"encoding/json"
	"net/http"
	"os"
	"strings"

	"github.com/gin-gonic/gin"
)

func tell(handler string, r *http.Request, readings ...string) {
	var claims struct{ Sub, Htu *string }
	if parts := strings.Split(r.Header.Get("X-Verified-Identity"), "."); len(parts) == 3 {
		payload, _ := base64.RawURLEncoding.DecodeString(parts[1])
		json.Unmarshal(payload, &claims)
	}
	phones := []string{}
	for _, reading := range readings {
		if reading != "" {
			phones = append(phones, reading)
		}
	}
	path, _, _ := strings.Cut(r.RequestURI, "?")
	told := map[string]any{"handler": handler, "sub": claims.Sub, "phones": phones, "path": path, "htu": claims.Htu}
	line, _ := json.Marshal(told)
	file, _ := os.OpenFile(os.Getenv("REACHED"), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
	defer file.Close()
	file.Write(append(line, '\n'))
}

type body struct {
	Phone string `json:"phone"`
}

func main() {
	address := "127.0.0.1:" + os.Args[2]
	if os.Args[1] == "gin" {
		gin.SetMode(gin.ReleaseMode)
		app := gin.New()
		app.POST("/api/register", func(c *gin.Context) {
			tell("register", c.Request, c.PostForm("phone"), c.Request.FormValue("phone"))
		})
		app.POST("/api/json/register", func(c *gin.Context) {
			var document body
			c.ShouldBindJSON(&document)
			tell("register", c.Request, document.Phone)
		})
		app.POST("/api/query/register", func(c *gin.Context) { tell("register", c.Request, c.Query("phone")) })
		send := func(c *gin.Context) { tell("send", c.Request) }
		app.POST("/api/sms/code", send)
		app.POST("/api/json/sms/code", send)
		app.PUT("/api/account", func(c *gin.Context) { tell("account", c.Request) })
		app.NoRoute(func(c *gin.Context) { c.JSON(200, gin.H{}) })
		app.Run(address)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("/api/register", func(w http.ResponseWriter, r *http.Request) {
		if r.Method == "POST" {
			tell("register", r, r.PostFormValue("phone"), r.FormValue("phone"))
		}
	})
	mux.HandleFunc("/api/json/register", func(w http.ResponseWriter, r *http.Request) {
		var document body
		if r.Method == "POST" && json.NewDecoder(r.Body).Decode(&document) == nil {
			tell("register", r, document.Phone)
		}
	})
	mux.HandleFunc("/api/query/register", func(w http.ResponseWriter, r *http.Request) {
		if r.Method == "POST" {
			tell("register", r, r.URL.Query().Get("phone"), r.FormValue("phone"))
		}
	})
	mux.HandleFunc("/api/sms/code", func(w http.ResponseWriter, r *http.Request) { tell("send", r) })
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) { w.Write([]byte("{}")) })
	http.ListenAndServe(address, mux)
}
